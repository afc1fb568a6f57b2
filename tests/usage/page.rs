//! `pimsim report`: pages stand alone, escape what they quote, leave out no number, and say what the other commands say.

use crate::common::root;
use std::path::Path;
use std::process::Command;

/// A finished command of one of the programs, which must end well.
fn done(program: &str, dir: &Path, args: &[&str]) -> String {
    let out = Command::new(program).current_dir(dir).args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn pimsim(dir: &Path, args: &[&str]) -> String {
    done(env!("CARGO_BIN_EXE_pimsim"), dir, args)
}

/// What `report` says when it fails, with its exit code.
fn refused(dir: &Path, args: &[&str], code: i32) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_pimsim")).current_dir(dir).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{said}");
    said
}

/// A small sweep in `sweep`, and runs of three policies in `run` with their metrics beside it.
struct Results {
    dir: tempfile::TempDir,
}

impl Results {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |file: &str| root().join(file).display().to_string();
        let (demo, system) = (path("configs/workload/demo.toml"), path("configs/system/hbm3-pim.toml"));
        let grid = format!(
            "name = \"small\"\naccuracy = true\n[axes]\nworkload = [\"{demo}\"]\nsteps = [4]\npolicy = [\"full\", \"quest\", \"starc\"]\n\
             budget = [128, 256]\n[[skip]]\npolicy = \"full\"\nbudget = [128]\n"
        );
        std::fs::write(dir.path().join("grid.toml"), grid).unwrap();
        pimsim(dir.path(), &["sweep", "grid.toml", "-q", "-o", "sweep"]);
        for policy in ["full", "quest", "starc"] {
            let (trace, metrics) = (format!("{policy}.ptrace"), format!("{policy}.metrics.csv"));
            let args = [
                "run",
                "-q",
                "--config",
                &demo,
                "--set",
                "steps=4",
                "--policy",
                policy,
                "-o",
                &trace,
                "--metrics",
                &metrics,
            ];
            done(env!("CARGO_BIN_EXE_tracegen"), dir.path(), &args);
        }
        pimsim(
            dir.path(),
            &["run", "-q", "full.ptrace", "quest.ptrace", "starc.ptrace", "--config", &system, "-o", "run"],
        );
        Results { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The page of these arguments.
    fn page(&self, args: &[&str]) -> String {
        pimsim(self.path(), &[&["report"], args, &["-o", "-"]].concat())
    }
}

const METRICS: [&str; 4] = ["--metrics", "full.metrics.csv", "quest.metrics.csv", "starc.metrics.csv"];

/// Elements that end where they begin.
const VOID: [&str; 4] = ["meta", "link", "input", "br"];

/// A tag: its name, its attributes, and whether it closes an element, or itself.
struct Tag<'a> {
    name: &'a str,
    attributes: Vec<(&'a str, &'a str)>,
    closes: bool,
    empty: bool,
}

/// Splits a page into tags and the texts before each. Attributes must have quoted values, tags must nest, and a text has
/// neither `<` nor a bare `&`; what stands in a script or a style is one text.
fn parsed(page: &str) -> Vec<(&str, Tag<'_>)> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a doctype");
    let (mut out, mut open): (Vec<(&str, Tag<'_>)>, Vec<&str>) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let raw = open.last().filter(|name| ["script", "style"].contains(name)).map(|name| format!("</{name}>"));
        let at = rest.find(raw.as_deref().unwrap_or("<")).unwrap_or_else(|| panic!("text behind the end: {rest}"));
        let text = &rest[..at];
        if raw.is_none() {
            for (i, _) in text.match_indices('&') {
                let name = text[i + 1..].split(';').next().unwrap();
                assert!(["amp", "lt", "gt", "quot"].contains(&name), "{text}");
            }
        }
        let mut tag = &rest[at + 1..];
        let closes = tag.starts_with('/');
        tag = tag.trim_start_matches('/');
        let end = tag.find(|c: char| c.is_whitespace() || c == '>' || c == '/').unwrap();
        let (name, mut inside) = tag.split_at(end);
        let mut attributes = Vec::new();
        let empty = loop {
            inside = inside.trim_start();
            if let Some(after) = inside.strip_prefix("/>") {
                rest = after;
                break true;
            }
            if let Some(after) = inside.strip_prefix('>') {
                rest = after;
                break VOID.contains(&name);
            }
            let (attribute, value) =
                inside.split_once("=\"").unwrap_or_else(|| panic!("no quoted value: {inside:.80}"));
            let (value, after) = value.split_once('"').unwrap();
            assert!(attribute.chars().all(|c| c.is_ascii_alphanumeric() || "-:".contains(c)), "{attribute}");
            attributes.push((attribute, value));
            inside = after;
        };
        match (closes, empty) {
            (true, _) => assert_eq!(open.pop(), Some(name), "before {rest:.80}"),
            (false, false) => open.push(name),
            (false, true) => {}
        }
        out.push((text, Tag { name, attributes, closes, empty }));
        rest = if open.is_empty() { rest.trim_start() } else { rest };
    }
    assert!(open.is_empty(), "{open:?}");
    out
}

/// That a page is well formed, names its parts once, and needs nothing from elsewhere.
fn stands_alone(page: &str) {
    let tags = parsed(page);
    let all = || tags.iter().filter(|(_, tag)| !tag.closes);
    let mut ids: Vec<&str> =
        all().flat_map(|(_, t)| &t.attributes).filter(|(name, _)| *name == "id").map(|(_, id)| *id).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an identifier stands twice");
    for (name, value) in all().flat_map(|(_, t)| &t.attributes) {
        match *name {
            "src" | "srcset" | "action" | "style" | "data" => panic!("{name}=\"{value}\""),
            "href" => assert!(value.strip_prefix('#').map_or(*value == "data:,", |id| ids.contains(&id)), "{value}"),
            "aria-labelledby" => assert!(value.split(' ').all(|id| ids.contains(&id)), "{value}"),
            "xmlns" => assert_eq!(*value, "http://www.w3.org/2000/svg"),
            _ => assert!(!name.starts_with("on") && !value.contains("//"), "{name}=\"{value}\""),
        }
        for inside in value.split("url(").skip(1) {
            assert!(ids.contains(&inside.trim_start_matches('#').split(')').next().unwrap()), "{value}");
        }
    }
    for outside in ["http:", "https:", "@import", "fetch(", "XMLHttpRequest", "import("] {
        let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains(outside), "{outside}");
    }
    assert_eq!(all().filter(|(_, t)| t.name == "script").count(), 1);
    // What a reader of screens goes by.
    assert!(all().any(|(_, t)| t.name == "html" && t.attributes.contains(&("lang", "en"))));
    for name in ["header", "main", "nav", "footer", "h1"] {
        assert_eq!(all().filter(|(_, t)| t.name == name).count(), 1, "{name}");
    }
    let th = all().filter(|(_, t)| t.name == "th");
    assert!(th.clone().count() > 10 && th.clone().all(|(_, t)| t.attributes.iter().any(|(name, _)| *name == "scope")));
    assert!(!tags.iter().any(|(_, t)| t.empty && t.name == "svg"));
    let svgs = page.matches("<svg ").count();
    assert_eq!(page.matches("role=\"group\"").count(), svgs);
    assert_eq!(page.matches("<desc id=").count(), svgs);
}

/// Texts of the page's cells, row by row, of the table whose caption begins so.
fn table(page: &str, caption: &str) -> Vec<Vec<String>> {
    let begin = page.find(&format!("<caption>{caption}")).unwrap_or_else(|| panic!("no table {caption}"));
    let table = &page[begin..begin + page[begin..].find("</table>").unwrap()];
    let mut rows: Vec<Vec<String>> = Vec::new();
    for row in table.split("<tr>").skip(1) {
        let cells = row.split("<t").skip(1).filter(|c| c.starts_with('h') || c.starts_with('d'));
        // A heading has its unit in an element of its own.
        let text = |cell: &str| {
            let inside = cell.split_once('>').unwrap().1;
            let inside = inside.trim_start_matches("<span class=\"name\">");
            inside.split('<').next().unwrap().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        };
        rows.push(cells.map(text).collect());
    }
    rows
}

/// The cells below a heading.
fn below<'a>(table: &'a [Vec<String>], heading: &str) -> Vec<&'a str> {
    let at = table[0].iter().position(|h| h == heading).unwrap_or_else(|| panic!("{heading} in {:?}", table[0]));
    table[1..].iter().map(|row| row[at].as_str()).collect()
}

fn csv(text: &str) -> Vec<Vec<String>> {
    let mut reader = pimattn::core::table::CsvReader::ragged(text.as_bytes(), "t.csv");
    let mut rows = Vec::new();
    while let Some(row) = reader.read().unwrap() {
        rows.push(row.cells().map(String::from).collect());
    }
    rows
}

#[test]
fn a_page_stands_alone_and_has_every_number_of_its_tables() {
    let results = Results::new();
    let args = [&["sweep", "run"], &METRICS[..]].concat();
    let page = results.page(&args);
    stands_alone(&page);
    for file in ["sweep/sweep.csv", "run/run.csv"] {
        let shown = table(&page, &format!("All columns of {file}"));
        assert_eq!(shown, csv(&results.read(file)), "{file}");
    }
    // The same inputs are the same bytes, and a table stands for its folder.
    assert_eq!(page, results.page(&args));
    let tables = [&["sweep/sweep.csv", "run/run.csv"], &METRICS[..]].concat();
    assert_eq!(page.matches("<figure>").count(), results.page(&tables).matches("<figure>").count());
    for alone in ["sweep", "run"] {
        stands_alone(&results.page(&[alone]));
    }
}

#[test]
fn the_page_says_what_the_other_commands_say() {
    let results = Results::new();
    let page = results.page(&[&["sweep", "run"], &METRICS[..]].concat());
    // Points of the sweep: time, energy, error, and whether another is better.
    let frontier = csv(&pimsim(results.path(), &["frontier", "sweep/sweep.csv", "--format", "csv"]));
    let shown = table(&page, "sweep: what a decode step costs");
    let columns = [
        ("policy", "policy"),
        ("time/step us", "time/step"),
        ("energy/step uJ", "energy/step"),
        ("output_rel_err", "output error"),
        ("frontier", "Pareto"),
    ];
    let rows = |table: &[Vec<String>], pick: fn(&(&'static str, &'static str)) -> &'static str| {
        let columns: Vec<Vec<&str>> = columns.iter().map(|c| below(table, pick(c))).collect();
        let mut rows: Vec<Vec<String>> =
            (0..columns[0].len()).map(|i| columns.iter().map(|c| c[i].to_string()).collect()).collect();
        rows.sort();
        rows
    };
    assert_eq!(rows(&frontier, |c| c.0), rows(&shown, |c| c.1));
    let at_most = ["frontier", "sweep/sweep.csv", "--format", "csv", "--at-most", "0.05", "--at-most", "0.1"];
    let fastest = csv(&pimsim(results.path(), &at_most));
    let shown = table(&page, "sweep: the fastest budget");
    for (percent, at) in [("5", 1), ("10", 2)] {
        let of_frontier =
            fastest[1..].iter().map(|row| row[at].split(' ').next().unwrap().trim_matches('-').to_string());
        let heading = format!("time/step at error <= {percent} %");
        let mut times: Vec<String> = below(&shown, &heading).into_iter().map(String::from).collect();
        let mut expected: Vec<String> = of_frontier.collect();
        times.sort();
        expected.sort();
        assert_eq!(times, expected);
    }
    // Runs.
    let summary = csv(&pimsim(results.path(), &["summary", "run/run.csv", "--format", "csv"]));
    let shown = table(&page, "run: what a decode step costs");
    assert_eq!(below(&summary, "time/step us"), below(&shown, "time/step"));
    assert_eq!(below(&summary, "energy/step uJ"), below(&shown, "energy/step"));
    // Metrics, without the layers that stay full.
    let accuracy =
        csv(&pimsim(results.path(), &[&["accuracy"], &METRICS[1..], &["--by", "policy", "--format", "csv"]].concat()));
    let accuracy_of = |policy: &str| accuracy.iter().find(|row| row[1] == policy).unwrap()[6].clone();
    let shown = table(&page, "Output error of each table");
    for (policy, error) in below(&shown, "policy").into_iter().zip(below(&shown, "mean error")) {
        assert_eq!(error, accuracy_of(policy), "{policy}");
    }
    // The table of runs has the same.
    let runs = table(&page, "run: what a decode step costs");
    for (policy, error) in below(&runs, "policy").into_iter().zip(below(&runs, "output error")) {
        assert_eq!(error, accuracy_of(policy), "{policy}");
    }
    // The longest step is the longest of steps.csv.
    let steps = csv(&results.read("run/steps.csv"));
    let own = |trace: &str| -> f64 {
        let times = below(&steps, "trace").into_iter().zip(below(&steps, "time_ns")).filter(|(t, _)| *t == trace);
        times.map(|(_, ns)| ns.parse::<f64>().unwrap()).fold(0.0, f64::max)
    };
    let shown = table(&page, "Decode steps of each run");
    let expected = ["full", "quest", "starc"].map(|p| format!("{:.3}", own(&format!("{p}.ptrace")) / 1e3));
    assert_eq!(below(&shown, "longest"), expected);
}

#[test]
fn a_page_of_a_hundred_points_is_below_two_megabytes() {
    let results = Results::new();
    let sweep = csv(&results.read("sweep/sweep.csv"));
    let [budget, point] = ["budget", "point"].map(|name| sweep[0].iter().position(|h| h == name).unwrap());
    let mut out = format!("{}\n", sweep[0].join(","));
    for n in 0..100 {
        let mut row = sweep[1 + n % (sweep.len() - 1)].clone();
        (row[budget], row[point]) = ((16 * (n + 1)).to_string(), n.to_string());
        out.push_str(&pimattn::core::table::line(&row));
        out.push('\n');
    }
    results.write("large/sweep.csv", &out);
    let page = results.page(&["large"]);
    stands_alone(&page);
    assert!(page.len() < 2_000_000, "{}", page.len());
    assert_eq!(table(&page, "All columns of large/sweep.csv").len(), 101);
}

#[test]
fn hostile_names_are_text() {
    let results = Results::new();
    let script = "<script>alert(1)</script>";
    let sweep = results
        .read("sweep/sweep.csv")
        .replace(",quest,", &format!(",\"{script}\","))
        .replace("HBM3-PIM", "<b>&\"'HBM");
    let folder = "a <i>\"&'b";
    results.write(&format!("{folder}/sweep.csv"), &sweep);
    for file in ["run.csv", "steps.csv", "phases.csv", "heads.csv", "channels.csv", "origins.csv"] {
        let text = results.read(&format!("run/{file}")).replace("quest.ptrace", "<img src=x onerror=alert(1)>.ptrace");
        results.write(&format!("{folder}/{file}"), &text.replace("SmolLM2", "</style><svg/onload=alert(2)>"));
    }
    results
        .write(&format!("{folder}/m.csv"), &results.read("quest.metrics.csv").replace("quest,", &format!("{script},")));
    let page = results.page(&[folder, "--title", "</title><script>x</script>"]);
    stands_alone(&page);
    for raw in ["<script>alert", "<img", "<b>", "<i>", "</style><svg", "<script>x"] {
        assert!(!page.contains(raw), "{raw}");
    }
    for quoted in ["&lt;script&gt;alert(1)", "&lt;img src=x onerror=alert(1)&gt;", "a &lt;i&gt;", "&lt;/title&gt;"] {
        assert!(page.contains(quoted), "{quoted}");
    }
}

#[test]
fn a_page_warns_and_says_what_is_not_there() {
    let results = Results::new();
    let page = results.page(&["run", "--metrics", "quest.metrics.csv"]);
    // STARC clusters once in 64 steps; these are 4.
    assert!(page.contains("run.csv: 4 decode steps: no whole periods of starc (64 steps)"), "{page:.3000}");
    assert!(!page.contains("no whole periods of quest"));
    assert!(page.contains("run: output error of full.ptrace") && !page.contains("run: output error of quest.ptrace"));
    assert!(page.contains("pimsim sweep GRID.toml -o DIR"));
    // Metrics of another budget, or of other steps, are of no run here.
    let quest = results.read("quest.metrics.csv");
    let shorter: String = quest.lines().filter(|l| !l.starts_with("quest,256,3,")).map(|l| format!("{l}\n")).collect();
    for other in [quest.replace("quest,256,", "quest,512,"), shorter] {
        results.write("other.csv", &other);
        let page = results.page(&["run", "--metrics", "other.csv"]);
        assert!(page.contains("other.csv: metrics of quest") && page.contains("run: output error of quest.ptrace"));
    }
    // A sweep without accuracy, and runs without details.
    let sweep = csv(&results.read("sweep/sweep.csv"));
    let error = sweep[0].iter().position(|h| h == "output_rel_err").unwrap();
    let without = |row: &Vec<String>| {
        let cells: Vec<&str> = row.iter().enumerate().filter(|(i, _)| *i != error).map(|(_, c)| c.as_str()).collect();
        format!("{}\n", cells.join(","))
    };
    results.write("plain/sweep.csv", &sweep.iter().map(without).collect::<String>());
    results.write("bare/run.csv", &results.read("run/run.csv").replace(",,0,", ",8192,0,"));
    let page = results.page(&["plain", "bare"]);
    stands_alone(&page);
    assert!(page.contains("accuracy = true in the sweep's grid"));
    assert!(page.contains("bare: steps.csv") && page.contains("bare: origins.csv"));
    assert!(!page.contains("Output error against time"));
}

#[test]
fn what_is_no_result_is_refused() {
    let results = Results::new();
    results.write("empty/notes.txt", "");
    let said = refused(results.path(), &["report", "empty", "-o", "x.html"], 2);
    assert!(said.contains("empty: no sweep.csv of pimsim sweep, no run.csv"), "{said}");
    assert!(refused(results.path(), &["report", "nowhere", "-o", "x.html"], 66).contains("nowhere"));
    let said = refused(results.path(), &["report", "sweep", "-o", "x.pdf"], 2);
    assert!(said.contains("-o x.pdf: .html or .htm is written, not .pdf"), "{said}");
    let args = ["plot", "sweep/sweep.csv", "--x", "budget", "--y", "time_ns", "--by", "policy", "-o", "x.png"];
    let said = refused(results.path(), &args, 2);
    assert!(said.contains("-o x.png: .svg is written, not .png"), "{said}");
    results.write("broken/sweep.csv", &results.read("sweep/sweep.csv").replace(",quest,128,", ",quest,128,x,"));
    refused(results.path(), &["report", "broken", "-o", "x.html"], 65);
    assert!(!Path::new(&results.path().join("x.html")).exists());
}

#[test]
fn a_baseline_is_a_line_over_the_axis_and_times_are_in_their_unit() {
    let results = Results::new();
    let plot = |args: &[&str]| {
        let base = ["plot", "sweep/sweep.csv", "--x", "budget", "--by", "policy", "-o", "-"];
        pimsim(results.path(), &[&base, args].concat())
    };
    let svg = plot(&["--y", "time_ns/steps"]);
    assert!(svg.contains("time per step (µs)") && svg.contains("budget (tokens)"), "{svg}");
    // Two points a line, of quest and starc; full is a line from edge to edge with a marker at either end.
    assert_eq!(svg.matches("<polyline").count(), 3);
    let svg = plot(&["--y", "time_mac", "--y", "time_stall", "--bars"]);
    assert!(svg.contains("time, sum of the parts (tCK)"), "{svg}");
    let at = |label: &str| svg.find(&format!(">\n{label}\n<")).unwrap_or_else(|| panic!("{label}"));
    assert!(at("any") < at("128") && at("128") < at("256"));
}

/// The page's outline: headings, captions, warnings.
#[test]
fn the_outline_of_a_page() {
    let results = Results::new();
    let page = results.page(&[&["sweep", "run"], &METRICS[..]].concat());
    let mut out = String::new();
    let tags = parsed(&page);
    for pair in tags.windows(2) {
        let indent = match pair[0].1.name {
            "h1" => "",
            "h2" => "  ",
            "h3" => "    ",
            "caption" | "li" | "summary" => "      ",
            _ => continue,
        };
        let text = pair[1].0.trim();
        if !pair[0].1.closes && !text.is_empty() {
            out.push_str(&format!("{indent}{}: {text}\n", pair[0].1.name));
        }
    }
    insta::assert_snapshot!(out);
}
