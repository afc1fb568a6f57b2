//! What `pimsim try` prints on the built-in sample.

use std::process::Command;

/// The first table, and the sentences below the second.
pub fn sample(_: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_pimsim")).arg("try").current_dir(folder.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8(run.stdout).unwrap();
    let table: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
    let sentences: Vec<&str> =
        text.lines().skip_while(|line| !line.starts_with("Fastest")).take_while(|line| !line.is_empty()).collect();
    assert!(table.len() > 20 && sentences.len() >= 3, "{text}");
    format!("\n```text\n{}\n\n{}\n```\n\n", table.join("\n"), sentences.join("\n"))
}
