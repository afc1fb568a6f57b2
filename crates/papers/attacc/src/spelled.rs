//! The text of a layout that the hash of a trace is made of ([`spec_hash`](pimattn_trace::header::spec_hash)). Every
//! name in it stands here: code can be renamed, and a trace keeps its hash. A field more has to be spelled here before
//! it compiles; traces made before it then have another hash than those made after.

use super::UnitLevel;
use super::layout::{AttaccLayout, Product, Transfer};
use pimattn_core::op::Op;
use pimattn_trace::Phase;
use pimattn_trace::header::spelled;

impl AttaccLayout {
    /// Everything that addresses depend on besides the geometry.
    pub(super) fn spelled(&self) -> String {
        let AttaccLayout {
            mode,
            mac,
            round_bytes,
            values,
            queries,
            scores,
            probabilities,
            outputs,
            units,
            dim_columns,
        } = self;
        let mode = match mode {
            UnitLevel::Bank => "Bank",
            UnitLevel::BankGroup => "BankGroup",
            UnitLevel::Buffer => "Buffer",
        };
        spelled(
            "Layout",
            &[
                ("mode", &mode),
                ("mac", &of_op(*mac)),
                ("round_bytes", round_bytes),
                ("values", values),
                ("queries", &of_transfer(queries)),
                ("scores", &of_product(scores)),
                ("probabilities", &of_transfer(probabilities)),
                ("outputs", &of_product(outputs)),
                ("units", units),
                ("dim_columns", dim_columns),
            ],
        )
    }
}

fn of_transfer(transfer: &Transfer) -> String {
    let Transfer { phase, op, targets, entries, paced } = transfer;
    spelled(
        "Transfer",
        &[
            ("phase", &of_phase(*phase)),
            ("op", &of_op(*op)),
            ("targets", &numbers(targets)),
            ("entries", entries),
            ("paced", paced),
        ],
    )
}

fn of_product(product: &Product) -> String {
    let Product { phase, macs, per_chunk, results } = product;
    spelled(
        "Product",
        &[("phase", &of_phase(*phase)), ("macs", macs), ("per_chunk", per_chunk), ("results", &numbers(results))],
    )
}

fn numbers(all: &[u64]) -> String {
    let all: Vec<String> = all.iter().map(u64::to_string).collect();
    format!("[{}]", all.join(", "))
}

fn of_phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Other => "Other",
        Phase::Append => "Append",
        Phase::Cluster => "Cluster",
        Phase::Remap => "Remap",
        Phase::Select => "Select",
        Phase::AttendScore => "AttendScore",
        Phase::Softmax => "Softmax",
        Phase::AttendContext => "AttendContext",
    }
}

/// Operations of a layout by the names that the hash has had from the beginning.
fn of_op(op: Op) -> &'static str {
    match op {
        Op::MacAb => "MacAb",
        Op::MacSb => "MacSb",
        Op::MacPb => "MacPb",
        Op::WrGb => "WrGb",
        Op::MvGb => "MvGb",
        other => other.mnemonic(),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Attention, AttentionSchedule, DEVICE, Form, UnitLevel};

    #[test]
    fn a_layout_has_this_text_and_this_hash_whatever_the_code_calls_it() {
        let attention = Attention {
            mode: UnitLevel::Buffer,
            heads: 4,
            len: 64,
            dim: 64,
            bytes: 2,
            kv_budget: None,
            clustering: false,
        };
        let schedule = AttentionSchedule::of(Form::Published, attention, DEVICE).unwrap();
        let want = "Layout { mode: Buffer, mac: MacPb, round_bytes: 4096, values: 8388608, \
            queries: Transfer { phase: AttendScore, op: WrGb, targets: [0], entries: 4, paced: 4 }, \
            scores: Product { phase: AttendScore, macs: 128, per_chunk: 64, results: [0] }, \
            probabilities: Transfer { phase: AttendContext, op: MvGb, targets: [0], entries: 2, paced: 2 }, \
            outputs: Product { phase: AttendContext, macs: 128, per_chunk: 32, results: [0] }, \
            units: 2, dim_columns: 4 }";
        assert_eq!(schedule.layout.spelled(), want);
        assert_eq!(schedule.header().spec_hash, 0xbea1_98d8);
    }
}
