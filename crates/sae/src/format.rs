//! The forms SAEs are stored in, each in a file of its own.

use std::fmt;

use directrix_model::{Folder, HookPoint, Processing};

use crate::{End, Error, Parameters, Result, Sae, Site};

mod bare;
mod dictionary_learning;
mod gemma_scope;
mod goodfire;
mod llama_scope;
mod module;
mod openai;
mod openmoss;
mod origin;
pub(crate) mod saelens;
mod scaling;
mod sparsify;

/// Where an SAE is, apart from how wide it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What is encoded.
    pub reads: Hook,
    /// What is reconstructed: the same, but for a transcoder.
    pub writes: Hook,
}

/// A hook point, or one head of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Hook point.
    pub hook: HookPoint,
    /// The one head, at hook points that have heads.
    pub head: Option<usize>,
}

impl Place {
    /// One hook point for both ends.
    pub fn at(hook: HookPoint) -> Place {
        let hook = Hook { hook, head: None };
        Place { reads: hook, writes: hook }
    }
}

/// What the files of an SAE hold.
struct Stored {
    /// Where it is, or why the files do not say it.
    place: Result<Place, String>,
    parameters: Parameters,
    /// How the weights of the model were processed that it was trained on, as far as its files say.
    trained_on: Option<Processing>,
}

/// A form that a folder with an SAE can have.
struct Format {
    /// Whose form it is.
    name: &'static str,
    /// The files that it is known by, for messages.
    marks: &'static str,
    /// Whether files of these names are of this form.
    is: fn(&[String]) -> bool,
    read: fn(&Folder) -> Result<Stored>,
}

/// In the order in which they are tried.
const FORMATS: [Format; 9] = [
    Format {
        name: "sparsify",
        marks: "cfg.json` and `sae.safetensors",
        is: |names| has(names, sparsify::CONFIG) && has(names, sparsify::WEIGHTS),
        read: sparsify::read,
    },
    Format { name: "SAELens", marks: "cfg.json", is: |names| has(names, saelens::CONFIG), read: saelens::read },
    Format {
        name: "OpenMOSS",
        marks: "config.json` and `sae_weights.safetensors",
        is: |names| has(names, openmoss::CONFIG) && has(names, openmoss::WEIGHTS),
        read: openmoss::read,
    },
    Format {
        name: "Llama Scope",
        marks: "hyperparams.json",
        is: |names| has(names, llama_scope::CONFIG),
        read: llama_scope::read,
    },
    Format {
        name: "dictionary_learning",
        marks: "config.json` and `ae.pt",
        is: |names| has(names, dictionary_learning::CONFIG) && has(names, dictionary_learning::WEIGHTS),
        read: dictionary_learning::read,
    },
    Format {
        name: "Gemma Scope",
        marks: "params.npz",
        is: |names| has(names, gemma_scope::FIRST),
        read: gemma_scope::first,
    },
    Format {
        name: "Gemma Scope 2",
        marks: "params.safetensors",
        is: |names| has(names, gemma_scope::SECOND),
        read: gemma_scope::second,
    },
    Format {
        name: "superposition",
        marks: "NAME.pt` and `NAME.json",
        is: |names| !origin::names(names).is_empty(),
        read: origin::read,
    },
    Format {
        name: "OpenAI, Goodfire",
        marks: "NAME.pt` or `NAME.pth",
        is: |names| !bare::names(names).is_empty(),
        read: bare::read,
    },
];

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|other| other == name)
}

impl Sae {
    /// Loads the SAE that a folder holds. That it fits a model is a [check](Sae::fit) of its own.
    ///
    /// # Errors
    /// If the folder is of no known form, a file is missing or damaged, the architecture or a normalisation is not supported,
    /// a tensor has another shape, is not finite or is not one of the SAE's, or the files do not say where the SAE is: then
    /// [`load_at`](Sae::load_at) does.
    pub fn load(folder: &Folder) -> Result<Sae> {
        let Stored { place, parameters, trained_on } = stored(folder)?;
        let place = place.map_err(|why| Error::Place { folder: folder.to_string(), why })?;
        at(folder, place, parameters, trained_on)
    }

    /// As [`load`](Sae::load), where the caller says where the SAE is: for folders whose files do not.
    ///
    /// # Errors
    /// As [`load`](Sae::load), or if the files say that it is elsewhere.
    pub fn load_at(folder: &Folder, place: Place) -> Result<Sae> {
        let Stored { place: stated, parameters, trained_on } = stored(folder)?;
        match stated {
            Ok(stated) if stated != place => {
                let problem = format!("by its files the SAE {stated}, and not as told: {place}");
                Err(Error::Parameters { sae: folder.to_string(), problem })
            }
            _ => at(folder, place, parameters, trained_on),
        }
    }
}

fn stored(folder: &Folder) -> Result<Stored> {
    let found = folder.names()?;
    let Some(format) = FORMATS.iter().find(|format| (format.is)(&found)) else {
        let known = FORMATS.iter().map(Format::to_string).collect::<Vec<_>>().join(", ");
        return Err(Error::Format { folder: folder.to_string(), known, found: found.join(", ") });
    };
    (format.read)(folder)
}

fn at(folder: &Folder, place: Place, parameters: Parameters, trained_on: Option<Processing>) -> Result<Sae> {
    let end = |Hook { hook, head }, width| End { hook, head, width };
    let reads = end(place.reads, parameters.encoder.columns());
    let writes = end(place.writes, parameters.w_dec.columns());
    Ok(Sae::new(folder.to_string(), Site { reads, writes }, parameters)?.of_weights(trained_on))
}

/// The error of tensors that are no part of an SAE of this kind.
fn unknown_tensor(folder: &Folder, name: &str, kind: &str) -> Error {
    let problem = format!("tensor `{name}` is not one of {kind}; correct the configuration, or remove the tensor");
    Error::Parameters { sae: folder.to_string(), problem }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.marks, self.name)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.head {
            Some(head) => write!(f, "head {head} of {}", self.hook),
            None => write!(f, "{}", self.hook),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reads == self.writes {
            write!(f, "reads {}", self.reads)
        } else {
            write!(f, "reads {} and writes {}", self.reads, self.writes)
        }
    }
}
