//! docs/audit.md.

use super::{table, whole};
use crate::common::{root, system};
use pimattn_audit::{self as audit, report::Defect, report::Report};
use rayon::prelude::*;
use std::path::PathBuf;

/// What the reference's shipped logs break, by defect, under the file that copies it and under the honest one.
pub(super) fn defects(_: &str) -> String {
    let mut logs: Vec<PathBuf> =
        std::fs::read_dir(root().join("traces/golden/logs")).unwrap().map(|e| e.unwrap().path()).collect();
    logs.sort();
    let systems = ["attacc-compat", "hbm3-pim"];
    let reports = systems.map(|name| {
        let system = system(name, &[]);
        logs.par_iter().map(|log| audit::audit(log, &system, 0).unwrap()).collect::<Vec<Report>>()
    });
    let unexplained: u64 = reports.iter().flatten().map(Report::unexplained).sum();
    assert_eq!(unexplained, 0, "the page says that a defect explains each");
    let all = [
        Defect::DoubleRefresh,
        Defect::WideActivationPower,
        Defect::PathOnly,
        Defect::FreeSoftmax,
        Defect::CrossForm,
        Defect::TwoRows,
        Defect::SameBankPrecharge,
    ];
    let rows = all.map(|defect| {
        let found = reports.iter().map(|r| whole(r.iter().map(|r| r.of(defect)).sum()));
        [defect.name().to_string()].into_iter().chain(found).collect()
    });
    let head = format!("violations in the {} shipped logs", logs.len());
    let files = systems.map(|name| format!("{name}.toml"));
    table(&[&head, &files[0], &files[1]], &[false, true, true], rows)
}
