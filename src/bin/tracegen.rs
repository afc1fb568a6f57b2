//! `tracegen`: see `tracegen --help`.

fn main() -> std::process::ExitCode {
    pimattn::cli::tracegen::main()
}
