//! `directrix completions` and `directrix man`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man as Page;
use directrix::corpus::durable;

use super::terminal::stdout;

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  directrix completions bash > directrix.bash
  directrix completions zsh > _directrix";

const MAN_EXAMPLES: &str = "\
Examples:
  directrix man --out man";

/// Print completions for a shell.
///
/// What is printed belongs where the shell looks for completions: for bash in
/// ~/.local/share/bash-completion/completions/directrix, for zsh as _directrix in a folder of $fpath.
#[derive(Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Write manual pages.
///
/// One page for each command; `man -l man/directrix-index.1` shows one.
#[derive(Args)]
#[command(after_help = MAN_EXAMPLES)]
pub(crate) struct Man {
    /// Folder to write the pages to
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

impl Completions {
    pub(crate) fn run(self, mut definition: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut definition, "directrix", &mut script);
        let mut out = stdout();
        out.write_all(&script)?;
        Ok(out.flush()?)
    }
}

impl Man {
    pub(crate) fn run(self, mut definition: Command) -> anyhow::Result<()> {
        definition = definition.disable_help_subcommand(true);
        definition.build();
        self.write(&definition)
    }

    fn write(&self, command: &Command) -> anyhow::Result<()> {
        let page = Page::new(command.clone());
        let mut text = Vec::new();
        page.render(&mut text)?;
        durable::write(&self.out.join(page.get_filename()), &text)?;
        command.get_subcommands().try_for_each(|below| self.write(below))
    }
}
