//! The command line: one module per command, and what commands share.
//!
//! A command is a struct of typed flags with a `run`. [`numbers`] have ranges, [`inputs`] gives flags their meaning, [`watch`] is for what takes
//! long, [`terminal`], [`layout`] and [`results`] are for what is shown, [`tensor_file`] for what is written.

mod ablate;
mod attribute;
mod capture;
mod circuits;
mod convert;
mod direction;
mod directions;
mod evaluate;
mod explain;
mod export;
mod failure;
mod generate;
mod index;
mod inputs;
mod intervene;
mod layout;
mod merge;
#[cfg(feature = "mpi")]
mod mpi;
mod numbers;
mod plan;
mod ranks;
mod results;
mod search;
mod serve;
mod shell;
mod study;
mod tensor_file;
mod terminal;
mod train;
mod training_plan;
mod watch;

use std::any::TypeId;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Command as Definition, CommandFactory, FromArgMatches, Parser, Subcommand};

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
  directrix direction 42              show what direction 42 of the last SAE fires on
  directrix search 'said, \"'          find the directions that fire on a text
  directrix generate --prompt \"Once upon a time\"";

#[derive(Subcommand)]
enum Command {
    Demo(study::Demo),
    Study(study::Study),
    Train(Box<train::Train>),
    Evaluate(evaluate::Evaluate),
    Index(index::Index),
    Merge(merge::Merge),
    Plan(plan::Plan),
    Direction(direction::Direction),
    Search(search::Search),
    Explain(explain::Explain),
    Capture(capture::Capture),
    Ablate(ablate::Ablate),
    Attribute(attribute::Attribute),
    Circuits(circuits::Circuits),
    Export(export::Export),
    Generate(generate::Generate),
    Intervene(intervene::Intervene),
    Serve(serve::Serve),
    Convert(convert::Convert),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// All commands with their flags.
fn definition() -> Definition {
    with_negative_numbers(Cli::command())
}

/// A number may be below 0, and is then refused for that, not taken for a flag.
fn with_negative_numbers(command: Definition) -> Definition {
    let command = command.mut_subcommands(with_negative_numbers);
    command.mut_args(|arg| {
        let is = |id: TypeId| arg.get_value_parser().type_id() == id;
        if !arg.get_action().takes_values() || is(TypeId::of::<String>()) || is(TypeId::of::<PathBuf>()) {
            arg
        } else if arg.is_positional() {
            arg.allow_negative_numbers(true)
        } else {
            arg.allow_hyphen_values(true)
        }
    })
}

pub(crate) fn main() -> ExitCode {
    let parsed = definition().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let command = parsed.unwrap_or_else(|error| failure::wrong_usage(&error)).command;
    failure::exit_code(|| match command {
        Command::Demo(demo) => demo.run(),
        Command::Study(study) => study.run(),
        Command::Train(train) => train.run(),
        Command::Evaluate(evaluate) => evaluate.run(),
        Command::Index(index) => index.run(),
        Command::Merge(merge) => merge.run(),
        Command::Plan(plan) => plan.run(),
        Command::Direction(direction) => direction.run(),
        Command::Search(search) => search.run(),
        Command::Explain(explain) => explain.run(),
        Command::Capture(capture) => capture.run(),
        Command::Ablate(ablate) => ablate.run(),
        Command::Attribute(attribute) => attribute.run(),
        Command::Circuits(circuits) => circuits.run(),
        Command::Export(export) => export.run(),
        Command::Generate(generate) => generate.run(),
        Command::Intervene(intervene) => intervene.run(),
        Command::Serve(serve) => serve.run(),
        Command::Convert(convert) => convert.run(),
        Command::Completions(completions) => completions.run(definition()),
        Command::Man(man) => man.run(definition()),
    })
}
