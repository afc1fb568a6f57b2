//! `pimsim`: see `pimsim --help`.

fn main() -> std::process::ExitCode {
    pimattn::cli::pimsim::main()
}
