//! `tracegen`: KV cache in, trace out.
