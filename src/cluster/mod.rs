//! Clustering of keys.
