//! The command line: one module per command, and what commands share.
//!
//! A command is a struct of typed flags with a `run`. [`inputs`] gives flags their meaning, [`watch`] is for what takes
//! long, [`terminal`] and [`results`] are for what is shown, [`tensor_file`] for what is written.

mod ablate;
mod attribute;
mod capture;
mod circuits;
mod direction;
mod evaluate;
mod failure;
mod generate;
mod index;
mod inputs;
mod results;
mod study;
mod tensor_file;
mod terminal;
mod train;
mod watch;

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
  directrix demo                      run the shipped study; prints the path of its report
  directrix index                     index the shipped model, SAEs and stories in out/index
  directrix direction 42              show what direction 42 of the first SAE fires on
  directrix generate --prompt \"Once upon a time\"";

#[derive(Subcommand)]
enum Command {
    Demo(study::Demo),
    Study(study::Study),
    Train(Box<train::Train>),
    Evaluate(evaluate::Evaluate),
    Index(index::Index),
    Direction(direction::Direction),
    Capture(capture::Capture),
    Ablate(ablate::Ablate),
    Attribute(attribute::Attribute),
    Circuits(circuits::Circuits),
    Generate(generate::Generate),
}

pub(crate) fn main() -> ExitCode {
    let command = Cli::parse().command;
    failure::exit_code(|| match command {
        Command::Demo(demo) => demo.run(),
        Command::Study(study) => study.run(),
        Command::Train(train) => train.run(),
        Command::Evaluate(evaluate) => evaluate.run(),
        Command::Index(index) => index.run(),
        Command::Direction(direction) => direction.run(),
        Command::Capture(capture) => capture.run(),
        Command::Ablate(ablate) => ablate.run(),
        Command::Attribute(attribute) => attribute.run(),
        Command::Circuits(circuits) => circuits.run(),
        Command::Generate(generate) => generate.run(),
    })
}
