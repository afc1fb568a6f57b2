//! Names of columns that more than one room spells: where a table is declared, and where it is read.

use crate::op::Op;
use crate::table::{Column, column};

macro_rules! names {
    ($($name:ident = $text:literal;)+) => {
        $(#[doc = concat!("The column `", $text, "`.")] pub const $name: &str = $text;)+
    };
}

names! {
    TRACE = "trace";
    SYSTEM = "system";
    DEVICE = "device";
    MODEL = "model";
    CONTEXT = "context";
    POLICY = "policy";
    BUDGET = "budget";
    STEP = "step";
    POSITION = "position";
    PHASE = "phase";
    REQUEST = "request";
    LAYER = "layer";
    KV_HEAD = "kv_head";
    QUERY_HEAD = "query_head";
    DENSE = "dense";
    CHANNEL = "channel";
    POINT = "point";
    KEY = "key";
    CAPABILITY = "capability";
    OBJECTIVE = "objective";
    GENERATOR = "generator";
    PROVENANCE = "provenance";
    SEED = "seed";
    SPEC_HASH = "spec_hash";
    ELEMENT_BYTES = "element_bytes";
    CHANNELS = "channels";
    ASSUMED = "assumed";
    WORKLOAD = "workload";
    SETTINGS = "settings";

    STEPS = "steps";
    CYCLES = "cycles";
    TIME_NS = "time_ns";
    BUSY_CYCLES = "busy_cycles";
    TIME_MAC = "time_mac";
    TIME_ROW_SWITCH = "time_row_switch";
    TIME_IMBALANCE_UNITS = "time_imbalance_units";
    TIME_IMBALANCE_CHANNELS = "time_imbalance_channels";
    TIME_DATA_MOVEMENT = "time_data_movement";
    TIME_SOFTMAX = "time_softmax";
    TIME_REFRESH = "time_refresh";
    TIME_STALL = "time_stall";
    BOUND_CYCLES = "bound_cycles";
    ENERGY_PJ = "energy_pj";
    ENERGY_ACTIVATION_PJ = "energy_activation_pj";
    ENERGY_COLUMN_PJ = "energy_column_pj";
    ENERGY_MOVEMENT_PJ = "energy_movement_pj";
    ENERGY_COMPUTE_PJ = "energy_compute_pj";
    ENERGY_REFRESH_PJ = "energy_refresh_pj";
    ENERGY_BACKGROUND_PJ = "energy_background_pj";
    ACTIVATIONS = "activations";
    SELECTED_TOKENS = "selected_tokens";
    DISTINCT_TOKENS = "distinct_tokens";
    ROW_BLOCKS = "row_blocks";
    FITTED_TOKENS = "fitted_tokens";
    LAYERS = "layers";
    CACHE_HASH = "cache_hash";
    SELECTION_HASH = "selection_hash";
    CONFIG_HASH = "config_hash";
    CAUTIONS = "cautions";
    ROW_TOKENS = "row_tokens";
    BYTES_USEFUL = "bytes_useful";
    KV_HEADS = "kv_heads";
    QUERY_HEADS = "query_heads";
    EXTENTS = "extents";
    BYTES_SCANNED = "bytes_scanned";
    BYTES_UPKEEP = "bytes_upkeep";
    BYTES_FETCHED = "bytes_fetched";
    MAC_UTILISATION = "mac_utilisation";
    IMBALANCE_UNITS = "imbalance_units";
    IMBALANCE_CHANNELS = "imbalance_channels";

    STEP_NS_MEDIAN = "step_ns_median";
    STEP_NS_WORST = "step_ns_worst";
    SELECTED = "selected";
    METRIC_ROW_TOKENS = "metric_row_tokens";
    MASS_RECALL = "mass_recall";
    TOP_RECALL = "top_recall";
    OUTPUT_REL_ERR = "output_rel_err";
    OUTPUT_REL_ERR_MEDIAN = "output_rel_err_median";
    OUTPUT_REL_ERR_P95 = "output_rel_err_p95";
    OUTPUT_REL_ERR_WORST_HEAD = "output_rel_err_worst_head";
}

/// Operations whose requests are counted, and the columns of their counts, in the order of the tables.
pub const REQUESTS: [(Op, Column); 12] = [
    (Op::Ld, column("req_rd", "1", "LD requests")),
    (Op::St, column("req_wr", "1", "ST requests")),
    (Op::MacAb, column("req_mac_ab", "1", "PIM_MAC_AB requests")),
    (Op::MacSb, column("req_mac_sb", "1", "PIM_MAC_SB requests")),
    (Op::MacPb, column("req_mac_pb", "1", "PIM_MAC_PB requests")),
    (Op::MacBg, column("req_mac_bg", "1", "PIM_MAC_BG requests")),
    (Op::ActBg, column("req_act_bg", "1", "PIM_ACT_BG requests")),
    (Op::PreBg, column("req_pre_bg", "1", "PIM_PRE_BG requests")),
    (Op::WrGb, column("req_wr_gb", "1", "PIM_WR_GB requests")),
    (Op::MvSb, column("req_mv_sb", "1", "PIM_MV_SB requests")),
    (Op::MvGb, column("req_mv_gb", "1", "PIM_MV_GB requests")),
    (Op::Sfm, column("req_sfm", "1", "PIM_SFM requests")),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// An operation that is new has to have its column, and each column says which operation it counts.
    #[test]
    fn every_operation_that_is_work_is_counted_once() {
        let work = |op: &&Op| !op.is_mark() && !matches!(op, Op::SetModel | Op::SetHead);
        for op in Op::ALL.iter().filter(work) {
            let columns: Vec<_> = REQUESTS.iter().filter(|(counted, _)| counted == op).collect();
            let [(_, column)] = columns[..] else { panic!("{op:?} has {} columns", columns.len()) };
            assert_eq!(column.meaning, format!("{} requests", op.mnemonic()));
        }
        assert_eq!(REQUESTS.len(), Op::ALL.iter().filter(work).count());
    }
}
