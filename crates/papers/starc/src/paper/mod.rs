//! The report of an experiment: claims, figures and text, each made of cells of its tables.

pub mod claims;
pub mod design;
pub mod figures;
mod repeats;
pub mod text;
pub mod tornado;
mod verdict;

use pimattn_report::cells::Cells;

/// The tables of an experiment.
#[derive(Debug)]
pub struct ExperimentTables {
    /// Attention with the artifact's row budgets.
    pub artifact: Cells,
    /// How the artifact's row budgets repeat themselves.
    pub budgets: Cells,
    /// Attention with our own masks, by context.
    pub masks: Cells,
    /// The same, by window.
    pub positions: Cells,
    /// Decode steps end to end, of both modes.
    pub system: Cells,
    /// What STARC takes against the others.
    pub reductions: Cells,
    /// Policies by budget.
    pub choices: Cells,
    /// Policies at equal error.
    pub winners: Cells,
    /// Policies at several mappings.
    pub mappings: Cells,
    /// What STARC takes less there, and how sure that is.
    pub intervals: Cells,
    /// Gains under changed assumptions.
    pub ablation: Cells,
    /// Headlines by assumed value.
    pub tornado: Cells,
    /// Policies by device.
    pub design: Cells,
}
