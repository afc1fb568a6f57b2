//! Do the numbers balance: energy, bytes, tokens, accuracy, and every figure of the pages?

mod accounts;
mod books;
mod coverage;
mod figures;
mod kv_sample;
mod selection_files;
mod selections;
