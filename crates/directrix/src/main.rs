//! The `directrix` command: parse, run, exit code.

// Documentation of flags is what `--help` shows: without markup.
#[allow(clippy::doc_markdown)]
mod cli;

fn main() -> std::process::ExitCode {
    directrix::keep_freed_memory();
    directrix::corpus::durable::exit_if_a_map_shrinks();
    cli::main()
}
