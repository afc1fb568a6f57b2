//! Does bad input end in a clear error, and an interrupt without damage?

mod cancel;
mod faults;
mod hostile_configs;
mod kv_hostile;
mod large_dump;
mod selection_hostile;
