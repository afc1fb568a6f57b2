//! The text of a mapping that the hash of a trace is made of ([`spec_hash`](pimattn_trace::header::spec_hash)). Every
//! name in it stands here: code can be renamed, and a trace keeps its hash. A field more has to be spelled here before
//! it compiles; traces made before it then have another hash than those made after.

use pimattn_mapping::layout::Shape;
use pimattn_mapping::workload::{
    Addressing, Align, HeadPlacement, Layout, Mapping, Placement, UnitPlacement, ValueLayout,
};
use pimattn_trace::header::spelled;

/// Everything that addresses depend on besides the geometry.
pub(super) fn text(mapping: &Mapping, placement: &Placement, shape: &Shape) -> String {
    format!("{} {} {}", of_mapping(mapping), of_placement(placement), of_shape(shape))
}

fn of_mapping(mapping: &Mapping) -> String {
    let Mapping {
        addressing,
        layout,
        align,
        values,
        skip_columns,
        element_bytes,
        selection_layout,
        value_addressing,
        value_layout,
        value_align,
    } = mapping;
    let values = match values {
        ValueLayout::Stripe => "Stripe",
        ValueLayout::Vector => "Vector",
    };
    spelled(
        "Mapping",
        &[
            ("addressing", &of_addressing(*addressing)),
            ("layout", &of_layout(*layout)),
            ("align", &of_align(*align)),
            ("values", &values),
            ("skip_columns", skip_columns),
            ("element_bytes", element_bytes),
            ("selection_layout", &of_layout(*selection_layout)),
            ("value_addressing", &optional(value_addressing.map(of_addressing))),
            ("value_layout", &optional(value_layout.map(of_layout))),
            ("value_align", &optional(value_align.map(of_align))),
        ],
    )
}

fn of_placement(placement: &Placement) -> String {
    let Placement { heads, split, units, devices, stacks } = placement;
    let heads = match heads {
        HeadPlacement::RoundRobin => "RoundRobin",
        HeadPlacement::Balanced => "Balanced",
    };
    let units = match units {
        UnitPlacement::RoundRobin => "RoundRobin",
        UnitPlacement::LoadAware => "LoadAware",
    };
    let fields: &[(&str, &dyn std::fmt::Display)] =
        &[("heads", &heads), ("split", split), ("units", &units), ("devices", devices), ("stacks", stacks)];
    spelled("Placement", fields)
}

fn of_shape(shape: &Shape) -> String {
    let Shape { units, columns, keys_per_row, values_per_row, value_stripes, entry, vector_bytes, element_bytes } =
        shape;
    spelled(
        "Shape",
        &[
            ("units", units),
            ("columns", columns),
            ("keys_per_row", keys_per_row),
            ("values_per_row", values_per_row),
            ("value_stripes", value_stripes),
            ("entry", entry),
            ("vector_bytes", vector_bytes),
            ("element_bytes", element_bytes),
        ],
    )
}

fn of_addressing(addressing: Addressing) -> &'static str {
    match addressing {
        Addressing::Ideal => "Ideal",
        Addressing::BankGroup => "BankGroup",
        Addressing::Broadcast => "Broadcast",
    }
}

fn of_layout(layout: Layout) -> &'static str {
    match layout {
        Layout::Interleaved => "Interleaved",
        Layout::RowBlock => "RowBlock",
        Layout::ClusterStriped => "ClusterStriped",
    }
}

fn of_align(align: Align) -> &'static str {
    match align {
        Align::None => "None",
        Align::Row => "Row",
    }
}

fn optional(name: Option<&str>) -> String {
    name.map_or("None".into(), |name| format!("Some({name})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pimattn_core::addr::Geometry;
    use pimattn_trace::header::spec_hash;

    #[test]
    fn a_mapping_has_this_text_and_this_hash_whatever_the_code_calls_it() {
        let mapping = Mapping {
            addressing: Addressing::Broadcast,
            layout: Layout::ClusterStriped,
            align: Align::Row,
            values: ValueLayout::Vector,
            skip_columns: false,
            element_bytes: 2,
            selection_layout: Layout::Interleaved,
            value_addressing: Some(Addressing::BankGroup),
            value_layout: Some(Layout::RowBlock),
            value_align: None,
        };
        let placement = Placement {
            heads: HeadPlacement::Balanced,
            split: 2,
            units: UnitPlacement::LoadAware,
            devices: 3,
            stacks: 4,
        };
        let shape = Shape {
            units: 16,
            columns: 2,
            keys_per_row: 16,
            values_per_row: 8,
            value_stripes: 1,
            entry: 16,
            vector_bytes: 256,
            element_bytes: 2,
        };
        let text = text(&mapping, &placement, &shape);
        let want = "Mapping { addressing: Broadcast, layout: ClusterStriped, align: Row, values: Vector, skip_columns: false, \
            element_bytes: 2, selection_layout: Interleaved, value_addressing: Some(BankGroup), \
            value_layout: Some(RowBlock), value_align: None } \
            Placement { heads: Balanced, split: 2, units: LoadAware, devices: 3, stacks: 4 } \
            Shape { units: 16, columns: 2, keys_per_row: 16, values_per_row: 8, value_stripes: 1, entry: 16, \
            vector_bytes: 256, element_bytes: 2 }";
        assert_eq!(text, want);
        let geometry = Geometry {
            channels: 16,
            pseudo_channels: 2,
            ranks: 2,
            bank_groups: 4,
            banks: 4,
            rows: 1 << 14,
            columns: 32,
            column_bytes: 32,
        };
        assert_eq!(spec_hash(&geometry, &text), 0x9de7_e4d6);
    }
}
