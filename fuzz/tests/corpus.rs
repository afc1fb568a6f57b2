//! Every target on its corpus: seeds, and what once made it panic.

use pimattn_fuzz::TARGETS;
use std::path::Path;

#[test]
fn no_input_of_the_corpus_makes_its_target_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    };
    for target in TARGETS {
        let inputs = names(&corpus.join(target.name));
        assert!(!inputs.is_empty(), "{} has no seed", target.name);
        for input in inputs {
            println!("{}", input.display());
            (target.run)(&std::fs::read(&input).unwrap());
        }
    }
    assert_eq!(names(&corpus).len(), TARGETS.len(), "a folder of the corpus has no target");
}
