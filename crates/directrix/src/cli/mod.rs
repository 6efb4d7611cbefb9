//! The command line: one module per command, and what commands share.
//!
//! A command is a struct of typed flags with a `run`. [`inputs`] gives flags their meaning, [`progress`] and [`interrupt`]
//! are for what takes long, [`terminal`] is for what is shown, [`tensor_file`] for what is written.

mod capture;
mod direction;
mod failure;
mod generate;
mod index;
mod inputs;
mod interrupt;
mod progress;
mod tensor_file;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A workbench for the sparse directions inside a language model.
#[derive(Parser)]
#[command(name = "directrix", version, arg_required_else_help = true, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  directrix index                     index the shipped model, SAEs and stories in out/index
  directrix direction 42              show what direction 42 of the first SAE fires on
  directrix generate --prompt \"Once upon a time\"";

#[derive(Subcommand)]
enum Command {
    Index(index::Index),
    Direction(direction::Direction),
    Capture(capture::Capture),
    Generate(generate::Generate),
}

pub(crate) fn main() -> ExitCode {
    let command = Cli::parse().command;
    failure::exit_code(|| match command {
        Command::Index(index) => index.run(),
        Command::Direction(direction) => direction.run(),
        Command::Capture(capture) => capture.run(),
        Command::Generate(generate) => generate.run(),
    })
}
