//! `directrix serve`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use directrix::corpus::Watch;
use directrix::index::Options;
use directrix::lab::{OtherIndex, Wanted, saes_of};
use directrix::serve::{Server, Workbench};

use super::inputs::ThreadArgs;
use super::numbers::whole;
use super::terminal::{note, remark, stdout};
use super::watch::{sources, watch};

const EXAMPLES: &str = "\
Examples:
  directrix serve
  directrix serve --index out/pythia --edit
  directrix serve --index out/demo/index --port 8080";

/// Where the index of the shipped model is made if there is none.
const INDEX: &str = "out/index";

const PORT: u16 = 7171;

/// Open the workbench, a page on an index.
///
/// The page shows what directions fire on, what changing them does to a prompt, and how they are linked. It serves an index with the model and SAEs that it is of, and the reports of studies. Without --index, the shipped model, SAEs and stories,
/// whose index is made in out/index at first. The page is for this machine alone unless --bind says otherwise. The last line printed is its
/// address, to be opened in a browser; Ctrl-C ends it.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Index to serve [default: out/index, made of what is shipped]
    #[arg(long, value_name = "FOLDER")]
    index: Option<PathBuf>,
    /// Folder with reports of studies, each in a folder of its own
    #[arg(long, value_name = "FOLDER", default_value = "out")]
    studies: PathBuf,
    /// Let the page write notes, which are kept in notes.sqlite beside the index
    #[arg(long)]
    edit: bool,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    threads: ThreadArgs,
}

/// Where a server listens.
#[derive(Args)]
pub(crate) struct ListenArgs {
    /// Port to listen at; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = PORT, value_parser = whole::<u16>(0..=65_535))]
    port: u16,
    /// Address to listen at; any but this machine's own needs --token
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = address)]
    bind: IpAddr,
    /// Secret that every request must name
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    token: Option<String>,
}

impl Default for ListenArgs {
    fn default() -> Self {
        ListenArgs { port: PORT, bind: IpAddr::from([127, 0, 0, 1]), token: None }
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "give an address, such as 127.0.0.1 or ::1".into())
}

fn token(text: &str) -> Result<String, String> {
    let is_plain = text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_plain { Ok(text.into()) } else { Err("give eight or more letters, digits, `-` or `_`".into()) }
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.threads.apply()?;
        let watch = watch();
        let folder = match self.index {
            Some(folder) => folder,
            None => shipped(&watch)?,
        };
        serve(&folder, &self.studies, self.edit, &self.listen, &watch)
    }
}

/// Serves an index until the watch says stop.
pub(crate) fn serve(
    index: &Path,
    studies: &Path,
    edit: bool,
    listen: &ListenArgs,
    watch: &Watch,
) -> anyhow::Result<()> {
    let bench = Workbench::of_index(index, &sources())?.with_studies(studies);
    let bench = bench.with_notes(&index.join("notes.sqlite"), edit)?;
    bench.said().iter().for_each(|said| note(said));
    let server = Server::listen(bench, SocketAddr::new(listen.bind, listen.port), listen.token.clone())?;
    remark("the page is open until Ctrl-C");
    let mut out = stdout();
    writeln!(out, "{}", server.url())?;
    out.flush()?;
    Ok(server.run(watch)?)
}

/// The index of the shipped model, made if there is none.
fn shipped(watch: &Watch) -> anyhow::Result<PathBuf> {
    let folder = PathBuf::from(INDEX);
    if !folder.join("index.json").is_file() {
        let wanted = Wanted::default();
        let opened = Wanted { saes: saes_of(&wanted.model), ..wanted }.open_from(&sources())?;
        opened.index(&folder, Options::default(), OtherIndex::Keep, watch)?;
    }
    Ok(folder)
}
