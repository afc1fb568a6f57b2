//! Selections from what other programs log: pages ([`pages`]) and masks ([`masks`]).

pub mod masks;
pub mod pages;

use super::Selection;

/// A form that another program writes selections in.
#[derive(Debug, Clone, Copy)]
pub struct ImportForm {
    /// Name on the command line.
    pub name: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
}

/// The form of [`pages::import`].
pub const PAGES: ImportForm = ImportForm {
    name: "page-log",
    summary: "CSV of page ids: the logs of LServe as extended by REFLEX, a file or their folder",
};
/// The form of [`masks::import`].
pub const MASKS: ImportForm = ImportForm {
    name: "masks",
    summary: "boolean .npy [query_head, step, token]: a folder of layer_N.npy, or one file with the layers in front",
};

/// All forms.
pub const FORMS: &[ImportForm] = &[PAGES, MASKS];

/// A selection that was imported, and what its reader should know.
#[derive(Debug)]
pub struct Imported {
    /// The selection.
    pub selection: Selection,
    /// Sentences about what the log left open, or said twice.
    pub notes: Vec<String>,
}
