//! Wrong values, one change each, and what is said of them.

use super::*;

/// One change each, and what the message must say; the place is the line that changed, unless it names another.
#[test]
fn wrong_values_are_named_with_their_place() {
    let org = CHOSEN_ORGANISATION;
    let timing = CHOSEN_TIMING;
    let ranks2 = "source = \"attacc\"\ndensity = \"8 Gb\"\npseudo_channels = 2\nranks = 2";
    // kind, table in which the line is ("" before the first), old, new, words
    let cases: &[(Kind, &str, &str, &str, &str)] = &[
        // system
        (Sys, "", "channels = 16", "channels = 0", "channels = 0 is not in 1..=4096"),
        (Sys, "", "channels = 16", "channels = 4097", "channels = 4097 is not in 1..=4096"),
        (Sys, "", "channels = 16", "channels = 4294967296", "channels: invalid value"),
        (Sys, "", "channels = 16", "channels = -16", "channels: invalid value"),
        (Sys, "", "channels = 16", "channels = 16.5", "channels: invalid type"),
        (Sys, "", "channels = 16", "channels = \"16\"", "channels: invalid type"),
        (Sys, "", "channels = 16", "channels = nan", "channels: invalid type"),
        (Sys, "", "queue_depth = 32", "queue_depth = 0", "queue_depth = 0 is not in 1..=1024"),
        (Sys, "", "queue_depth = 32", "queue_depth = 1025", "queue_depth = 1025 is not in 1..=1024"),
        (Sys, "", "controller = \"pim\"", "controller = \"pimm\"", "did you mean \"pim\"?"),
        (Sys, "", "refresh = \"all-bank\"", "refresh = \"all-banks\"", "did you mean \"all-bank\"?"),
        (Sys, "", "power = \"per-command\"", "power = \"staggered\"", "did you mean \"stagger\"?"),
        (Sys, "", "energy = \"per-command\"", "energy = \"per-bytes\"", "did you mean \"per-byte\"?"),
        (
            Sys,
            "[dram]",
            "device = \"../dram/hbm3-pim.toml\"",
            "device = \"../dram/hbm4.toml\"",
            "hbm4.toml does not exist",
        ),
        (Sys, "[dram]", "device = \"../dram/hbm3-pim.toml\"", "device = \"..\"", "irectory"),
        (
            Sys,
            "[dram]",
            "organisation = \"HBM3_8Gb_2R\"",
            "organisation = \"HBM3_8Gb_2\"",
            "did you mean \"HBM3_8Gb_2R\"?",
        ),
        (Sys, "[dram]", "timing = \"HBM3_5.2Gbps\"", "timing = \"HBM3_5.2Gb\"", "did you mean \"HBM3_5.2Gbps\"?"),
        // organisation
        (Device, org, "density = \"8 Gb\"", "density = \"16 Gb\"", "are 8 Gb, not 16 Gb"),
        (Device, org, "density = \"8 Gb\"", "density = \"8 GB\"", "unknown unit \"GB\"; expected Gb"),
        (Device, org, "density = \"8 Gb\"", "density = 8", "8 has no unit; write \"8 Gb\""),
        (Device, org, "density = \"8 Gb\"", "density = \"8\"", "needs a number, a space and a unit (Gb)"),
        (Device, org, "density = \"8 Gb\"", "density = \"eight Gb\"", "\"eight\" is not a number"),
        (Device, org, "column = \"32 B\"", "column = \"NaN B\"", "must be finite and not negative"),
        (Device, org, "column = \"32 B\"", "column = \"-32 B\"", "must be finite and not negative"),
        (Device, org, "column = \"32 B\"", "column = \"inf B\"", "must be finite and not negative"),
        (Device, org, "column = \"32 B\"", "column = \"32.5 B\"", "32.5 B is not a whole number of bytes"),
        (Device, org, "column = \"32 B\"", "column = \"1e30 B\"", "is not a whole number of bytes"),
        (Device, org, "rows = 16384", "rows = 4294967296", "rows"),
        (Device, org, "banks = 4", "banks = -4", "banks"),
        // units
        (Device, "[pim]", "lanes = 16", "lanes = 0", "lanes = 0 is not in"),
        (Device, "[pim]", "lanes = 16", "lanes = 16.0", "invalid type"),
        (Device, "[pim]", "entry = \"32 B\"", "entry = \"0 B\"", "is not a whole number of bytes"),
        (Device, "[pim]", "entry = \"32 B\"", "entry = \"0.5 B\"", "is not a whole number of bytes"),
        (
            Device,
            "[pim]",
            "source = \"attacc\"",
            "source = \"atacc\"",
            "unknown source \"atacc\"; did you mean \"attacc\"?",
        ),
        // timings
        (Device, timing, "tCK = \"769 ps\"", "tCK = \"0 ps\"", "tCK must be 1 ps to 1000 ns"),
        (Device, timing, "tCK = \"769 ps\"", "tCK = \"1 s\"", "unknown unit \"s\"; expected ps or ns"),
        (
            Device,
            timing,
            "rate = \"5200 MT/s\"",
            "rate = \"5200\"",
            "needs a number, a space and a unit (MT/s or Gbps)",
        ),
        (
            Device,
            timing,
            "rate = \"5200 MT/s\"",
            "rate = \"6000 MT/s\"",
            "6000 MT/s are 4.61 transfers in a tCK of 769 ps",
        ),
        (
            Device,
            "[[command]]",
            "path = [\"bank_group\", \"global_io\", \"tsv\", \"interposer\"]",
            "reach = { each = [\"rank\"] }",
            "RD moves no buffer entries",
        ),
        (
            Device,
            "[[command]]",
            "reach = { each = [\"pseudo-channel\"] }",
            "reach = { each = [\"rank\", \"rank\"] }",
            "rank is given twice",
        ),
        (
            Device,
            "[[command]]",
            "reach = { each = [\"pseudo-channel\"] }",
            "reach = { each = [\"rank\"], broadcast = [\"rank\"] }",
            "rank cannot have both an entry of its own and a broadcast one",
        ),
        (Device, timing, "nREFI = \"5070 tCK\"", "nREFI = \"0 tCK\"", "nREFI is missing or zero"),
        (Device, timing, "nREFI = \"5070 tCK\"", "nREFI = \"1 tCK\"", "more than half of nREFI"),
        (Device, timing, "nREFI = \"5070 tCK\"", "nREFI = \"900 tCK\"", "more than half of nREFI"),
        (Device, timing, "nFAW = \"39 tCK\"", "nFAW = \"1000000000 tCK\"", "nFAW is over"),
        (Device, timing, "nWR = \"21 tCK\"", "nWR = \"900000000 ns\"", "nWR is over"),
        // energies
        (Device, "[energy]", "mac = \"0.32 pJ\"", "mac = \"0.32 pJ/b\"", "unknown unit \"pJ/b\"; expected pJ or nJ"),
        (
            Device,
            "[energy]",
            "sram = \"0.0034 pJ/B\"",
            "sram = \"0.0034 pJ\"",
            "unknown unit \"pJ\"; expected pJ/b or pJ/B",
        ),
        (Device, "[energy]", "tsv = \"0.5 pJ/b\"", "tsv = 0.5", "0.5 has no unit; write \"0.5 pJ/b\""),
        (
            Device,
            "[energy]",
            "activation = { value = \"909 pJ\", source = \"fgdram\" }",
            "activation = { value = \"909 pJ\", source = \"fgdramm\" }",
            "did you mean \"fgdram\"?",
        ),
        (
            Device,
            "[energy]",
            "refreshes_per_window = { value = 8192, source = \"jedec\" }",
            "refreshes_per_window = { value = 0, source = \"jedec\" }",
            "must be at least 1",
        ),
        // workload
        (Work, "", "policy = \"starc\"", "policy = \"stark\"", "unknown policy \"stark\"; did you mean \"starc\"?"),
        (Work, "", "policy = \"starc\"", "policy = \"\"", "unknown policy \"\""),
        (Work, "", "budget = 256", "budget = 0", "budget = 0 is not in 1..="),
        (Work, "", "budget = 256", "budget = 4294967296", "budget = 4294967296 is not in 1..="),
        (Work, "", "budget = 256", "budget = 1e3", "budget: invalid type"),
        (Work, "", "dense_layers = 2", "dense_layers = 4294967296", "dense_layers: invalid value"),
        (Work, "", "seed = 1", "seed = \"one\"", "seed: invalid type"),
        (Work, "", "seed = 1", "seed = 9223372036854775808", ""),
        (
            Work,
            "",
            "system = \"../system/hbm3-pim.toml\"",
            "system = \"../system/hbm.toml\"",
            "hbm.toml does not exist",
        ),
        (Work, "", "system = \"../system/hbm3-pim.toml\"", "system = \"../system\"", "irectory"),
        (
            Work,
            "[mapping]",
            "addressing = \"bank-group\"",
            "addressing = \"bankgroup\"",
            "did you mean \"bank-group\"?",
        ),
        (Work, "[mapping]", "layout = \"row-block\"", "layout = \"row_block\"", "did you mean \"row-block\"?"),
        (Work, "[mapping]", "align = \"none\"", "align = \"rows\"", "did you mean \"row\"?"),
        (Work, "[mapping]", "values = \"stripe\"", "values = \"stripes\"", "did you mean \"stripe\"?"),
        (Work, "[mapping]", "skip_columns = true", "skip_columns = \"yes\"", "mapping.skip_columns: invalid type"),
        (Work, "[metrics]", "row_block = 16", "row_block = 0", "metrics.row_block = 0 is not in 1..="),
        (Work, "[metrics]", "units = 16", "units = 0", "metrics.units = 0 is not in 1..="),
        (Work, "[policies.streaming]", "sinks = 4", "sink = 4", "did you mean \"sinks\"?"),
        (Work, "[policies.quest]", "page = 16", "page = 0", "must be at least 1"),
        (Work, "[policies.quest]", "min_pages = 3", "min_page = 3", "did you mean \"min_pages\"?"),
        (Work, "[policies.starc]", "clusters = 4", "clusters = 65", "must be 1 to 64"),
        (Work, "[policies.starc]", "start = \"first\"", "start = \"fist\"", "did you mean \"first\"?"),
        (Work, "[policies.starc-v1]", "buffer = 128", "buffer = -1", "invalid value"),
    ];
    let mut house = House::new();
    for (kind, table, old, new, words) in cases {
        let text = kind.text();
        let (i, line) = {
            let mut inside = table.is_empty();
            let found = text.lines().enumerate().find(|(_, l)| {
                inside = if l.starts_with('[') { l == table } else { inside };
                inside && l.starts_with(old)
            });
            found.unwrap_or_else(|| panic!("{table} has no {old}"))
        };
        let message = house.refuse(*kind, new, &with_line(&text, i, Some(line.replacen(old, new, 1))));
        let name = kind.path().rsplit('/').next().unwrap();
        // A presets' table takes any timing, so the parser knows the table's line only.
        let line_known = *table != timing || !message.contains("unit") && !message.contains("a number");
        let place = if line_known { format!("{name}:{}: ", i + 1) } else { format!("{name}:") };
        assert!(message.contains(&place), "{new}: \"{message}\" does not name {place}");
        assert!(message.contains(words), "{new}: \"{message}\" does not say \"{words}\"");
    }

    // changes of several lines, or of a line that is not the only one of its kind
    let more: &[(Kind, &str, &str, &str)] = &[
        (Device, ranks2, &ranks2.replace("ranks = 2", "ranks = 0"), "ranks = 0 is not in 1..=16"),
        (Device, ranks2, &ranks2.replace("ranks = 2", "ranks = 17"), "ranks = 17 is not in 1..=16"),
        (Device, ranks2, &ranks2.replace("ranks = 2", "ranks = 3"), "are 12 Gb, not 8 Gb"),
        (
            Device,
            ranks2,
            &ranks2.replace("pseudo_channels = 2", "pseudo_channels = 3"),
            "pseudo_channels = 3 is not a power of two",
        ),
        (Device, "rows = 16384", "rows = 16383", ""),
        (Device, "name = \"PRE\"", "name = \"ACT\"", "command \"ACT\" is defined twice"),
        (Device, "serves = \"LD\"", "serves = \"PIM_LD\"", "unknown operation \"PIM_LD\""),
        (Device, "serves = \"LD\"", "serves = \"ST\"", "ST is served by two commands"),
        (Device, "bus = \"row\"", "bus = \"rows\"", "did you mean \"row\"?"),
        (Device, "scope = \"same-bank\"", "scope = \"same_bank\"", "did you mean \"same-bank\"?"),
        (Device, "effect = \"open\"", "effect = \"opens\"", "did you mean \"open\"?"),
        (Device, "\"bank_group\", \"global_io\", \"tsv\", \"interposer\"]", "\"tvs\"]", "did you mean \"tsv\"?"),
        (Device, "opener = \"ACT\"", "opener = \"ATC\"", "did you mean \"ACT\"?"),
        (Device, "opener = \"ACT\"", "opener = \"PRE\"", "PRE does not open every bank that RD needs"),
        (Device, "opener = \"ACTAB\"", "opener = \"ACT\"", "ACT does not open every bank that MACAB needs"),
        (Device, "opener = \"ACTSB\"", "opener = \"ACTPB\"", "ACTPB does not open every bank that MACSB needs"),
        (Device, "closer = \"PREPB\"", "closer = \"ACTPB\"", "ACTPB does not close every bank that MACPB needs"),
        (Device, "closer = \"PREA\"", "closer = \"PRE\"", "PRE does not close every bank that REFab needs"),
        (
            Device,
            "effect = \"refresh\"\ncloser = \"PREA\"",
            "effect = \"refresh\"",
            "REFab needs closed banks: name its closer",
        ),
        (Device, "effect = \"refresh\"\ncloser = \"PREA\"", "effect = \"configure\"", "has no refresh command"),
        (
            Device,
            "scope = \"channel\"\neffect = \"refresh\"",
            "scope = \"bank\"\neffect = \"refresh\"",
            "must reach the whole channel",
        ),
        (
            Device,
            "opener = \"ACT\"\ncloser = \"PRE\"",
            "opener = \"ACT\"",
            "RD needs an open row: name its opener and closer",
        ),
        (Device, "done = \"nCL + nBL\"", "done = \"nCL + nLB\"", "unknown timing \"nLB\""),
        (Device, "done = \"nCL + nBL\"", "done = \"nCL +\"", "ends where a timing name was expected"),
        (Device, "done = \"nCL + nBL\"", "done = \"4294967295\"", "4294967295 cycles are over"),
        (Device, "set = \"completed\"", "set = \"complete\"", "did you mean \"completed\"?"),
        (Device, "window = 4", "window = 65", "window = 65 is over 64"),
        (Device, "window = 4", "window = 4294967295", "window = 4294967295 is over 64"),
        (Device, "window = 4", "window = -1", ""),
        (Device, "power = [\"per-command\", \"stagger\"]", "power = [\"per-comand\"]", "did you mean \"per-command\"?"),
        (Device, "\"8 Gb\" = \"350 ns\"", "\"9 Gb\" = \"350 ns\"", "no refresh time for a density of 8 Gb"),
        (Device, "nRAS = \"45 tCK\"", "nRAS = \"1e300 ns\"", "more than a second"),
        (Device, "nRAS = \"45 tCK\"", "nRAS = \"45.5 tCK\"", "not a whole number of cycles"),
        (Device, "nRAS = \"45 tCK\"", "nRAS = \"45 us\"", "unknown unit \"us\"; expected tCK or ns"),
        (Device, "nRAS = \"45 tCK\"", "nRAS = \"45tCK\"", "needs a number, a space and a unit"),
        (Device, "nRAS = \"45 tCK\"", "nRAS = 45", "45 has no unit; write \"45 tCK\""),
        (Device, "nRCDRD = \"19 tCK\"", "nRCDRD = \"100000 tCK\"", "too long"),
        (Work, "budget = 256", "budget = 4", "budget 4 is below the"),
        (Work, "[policies.quest]", "[policies.qest]", "unknown policy \"qest\"; did you mean \"quest\"?"),
        (Work, "[mapping]", "[maping]", "did you mean \"mapping\"?"),
    ];
    for (kind, old, new, words) in more {
        let text = kind.text();
        assert!(text.contains(old), "no {old}");
        // timings and rows stand in every preset
        let everywhere = ["nRAS", "nRCDRD", "rows"].iter().any(|name| old.starts_with(name));
        let new_text = if everywhere { text.replace(old, new) } else { text.replacen(old, new, 1) };
        let name = kind.path().rsplit('/').next().unwrap();
        let message = house.refuse(*kind, new, new_text.as_bytes());
        assert!(
            message.contains(words) && message.contains(&format!("{name}:")),
            "{new}: \"{message}\" not \"{words}\""
        );
    }
    let many: String = (0..40)
        .map(|i| format!("[[command]]\nname = \"X{i}\"\nbus = \"row\"\nscope = \"bank\"\neffect = \"move\"\n"))
        .collect();
    let text = Device.text().replacen("[[command]]", &format!("{many}[[command]]"), 1);
    assert!(house.refuse(Device, "many commands", text.as_bytes()).contains("at most 32"));
    let edge = "  { level = \"rank\", from = [\"ACT\"], to = [\"ACT\"], latency = \"nFAW\", window = 4 },\n";
    let text = Device.text().replacen(edge, &edge.repeat(9), 1);
    assert!(house.refuse(Device, "many windows", text.as_bytes()).contains("at most 8 windows"));
}

#[test]
fn a_synthetic_source_is_checked() {
    let base = Work.text().replace("kv = ", "# kv = ");
    let mut house = House::new();
    let message = house.refuse(Work, "model of a dump", format!("model = \"m.toml\"\n{}", Work.text()).as_bytes());
    assert!(message.contains("a dump has its own shape"), "{message}");
    let text = format!("model = \"m.toml\"\n{base}\n[synthetic]\n");
    let message = house.refuse(Work, "no model", text.as_bytes());
    assert!(message.contains("demo.toml:1: model file") && message.contains("does not exist"), "{message}");
    let message = house.refuse(Work, "no source", base.as_bytes());
    assert!(message.contains("neither kv (a dump) nor [synthetic] is given"), "{message}");
    for (lines, words) in [
        ("layer = 2", "did you mean \"layers\"?"),
        ("layers = 0", "out of range"),
        ("layers = -1", "invalid value"),
        ("layers = \"2\"", "invalid type"),
        ("kv_heads = 0", "out of range"),
        ("kv_heads = 3\nquery_heads = 4", "not a multiple"),
        ("dim = 63", "odd"),
        ("dim = 8192\nprefill = 8\ndecode_steps = 1\nlayers = 1", "columns in each bank"),
        ("element_bytes = 3", "not supported"),
        ("prefill = 4294967296", "out of range"),
        ("prefill = 4294967295\ndecode_steps = 4294967295", "elements; at most"),
        ("sinks = 100000", "do not fit"),
        ("topics = 5000", "out of range"),
        ("stray = nan", "out of range"),
        ("stray = 1.5", "out of range"),
        ("rope_theta = inf", "out of range"),
        ("topic_score = -1.0", "out of range"),
        ("seed = -1", "invalid value"),
        (
            "layers = 20000\nkv_heads = 1\nquery_heads = 1\ndim = 2\nprefill = 4\ndecode_steps = 1\nsinks = 0",
            "do not fit into",
        ),
    ] {
        let text = format!("{base}\n[synthetic]\n{lines}\n");
        let message = house.refuse(Work, lines, text.as_bytes());
        assert!(message.contains(words) && message.contains("demo.toml:"), "{lines}: {message}");
    }
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/synthetic/smollm2-135m.toml");
    for (lines, words) in [
        ("layer = 2", "did you mean \"layers\"?"),
        ("topics = 3", "unknown key \"topics\""),
        ("layers = -1", "invalid value"),
        ("layers = 0", "out of range"),
        ("layer_numbers = [30]", "not one of 30 layers"),
        ("layer_numbers = [3, 2]", "ascending"),
        ("kv_heads = 2\nquery_heads = 3", "not a multiple"),
        ("dim = 96", "not a multiple of the fitted model's, 64"),
        ("prefill = 0", "out of range"),
        ("prefill = 10\nprefill_queries = 11", "do not fit"),
        ("prefill_queries = -1", "invalid value: integer \"-1\", expected a number of tokens, or \"all\""),
        ("prefill_queries = \"late\"", "invalid value: string \"late\", expected a number of tokens, or \"all\""),
        ("prefill_queries = 1.5", "expected a number of tokens, or \"all\""),
        ("prefill = 4294967295\ndecode_steps = 4294967295", "elements; at most"),
        ("element_bytes = 3", "not supported"),
    ] {
        let text = format!("{base}\n[synthetic]\nfit = \"{model}\"\n{lines}\n");
        let message = house.refuse(Work, lines, text.as_bytes());
        assert!(message.contains(words) && message.contains("demo.toml:"), "{lines}: {message}");
    }
    for (fit, words) in [("3", "invalid type"), ("\"absent.toml\"", "does not exist"), ("\".\"", "demo.toml:")] {
        let message = house.refuse(Work, fit, format!("{base}\n[synthetic]\nfit = {fit}\n").as_bytes());
        assert!(message.contains(words) && message.contains("demo.toml:"), "{fit}: {message}");
    }
}
