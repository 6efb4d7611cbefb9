//! What can go wrong with a model.

use std::io;
use std::path::PathBuf;

use crate::{HookPoint, Spot};

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the model room: what was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tokenizer cannot be used, or a configuration is not as it must be.
    #[error(transparent)]
    Corpus(#[from] directrix_corpus::Error),
    /// Nothing has the path of a folder.
    #[error("no folder `{}`: nothing on disk has this path; check it", path.display())]
    NoFolder {
        /// The path asked for.
        path: PathBuf,
    },
    /// Nothing has the path of a file.
    #[error("no file `{}`: nothing on disk has this path, or a folder has it; check it", path.display())]
    NoFile {
        /// The path asked for.
        path: PathBuf,
    },
    /// A folder was expected at a path that holds something else.
    #[error("`{}` is a file, expected a folder; name the folder that holds it", path.display())]
    NotAFolder {
        /// The path asked for.
        path: PathBuf,
    },
    /// The root of a repository in the hub's cache does not say which snapshot is meant.
    #[error(
        "`{}` is the root of a repository in the hub's cache and {}; name the folder of a snapshot",
        path.display(), if found.is_empty() { "holds no snapshot".into() } else { format!("holds several snapshots: {found}") }
    )]
    Snapshots {
        /// The root.
        path: PathBuf,
        /// The snapshots.
        found: String,
    },
    /// A folder lacks a file.
    #[error("`{path}` is missing; the folder holds: {found}")]
    MissingFile {
        /// The file asked for.
        path: String,
        /// The files that are there.
        found: String,
    },
    /// The operating system refused a read.
    #[error("cannot read `{path}`: {error}")]
    Read {
        /// The file or folder.
        path: String,
        /// What the operating system answered.
        error: io::Error,
    },
    /// A tensor file is not what it should be.
    #[error("{file}: not a readable file of tensors ({problem}); download or export it again")]
    TensorFile {
        /// The tensor file.
        file: String,
        /// What the reader found.
        problem: String,
    },
    /// A folder holds no weights that can be read.
    #[error("{folder}: {what}")]
    NoWeights {
        /// The folder.
        folder: String,
        /// What is missing, and what to do.
        what: String,
    },
    /// One of several files of weights is missing.
    #[error("`{path}` is missing, one of the files that hold the weights by `{listed}`; fetch it")]
    MissingShard {
        /// The missing file.
        path: String,
        /// The file that says that there is one.
        listed: String,
    },
    /// The configuration does not tie the unembedding, and there is none.
    #[error(
        "{folder}: there is no tensor `{name}`, and by config.json it is not the embedding (`tie_word_embeddings` is false); \
         fetch the language model with its unembedding, or set the key to true"
    )]
    NoUnembedding {
        /// The folder.
        folder: String,
        /// The tensor.
        name: String,
    },
    /// A tensor that is no part of what is loaded.
    #[error(
        "{folder}: tensor `{name}` is {why}; transformers would leave it out with a warning, which can give another \
         model; correct config.json, or remove the tensor"
    )]
    UnknownTensor {
        /// The folder.
        folder: String,
        /// The tensor.
        name: String,
        /// Why it is none.
        why: String,
    },
    /// No tensor of that name.
    #[error("{folder}: no tensor `{name}`; found {found}")]
    MissingTensor {
        /// Where it was looked for.
        folder: String,
        /// Its name.
        name: String,
        /// A few names that are there.
        found: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error(
        "{file}: tensor `{name}` has shape {found:?}, expected {expected:?}; does config.json belong to these weights?"
    )]
    Shape {
        /// The tensor file.
        file: String,
        /// Tensor name.
        name: String,
        /// Expected shape.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's element type is none that is read.
    #[error("{file}: tensor `{name}` holds {found}; convert it to F32, F16 or BF16")]
    Dtype {
        /// The tensor file.
        file: String,
        /// Tensor name.
        name: String,
        /// Its element type.
        found: String,
    },
    /// A weight is NaN or infinite.
    #[error("{file}: tensor `{name}` holds {value} at element {element}; the checkpoint is damaged")]
    WeightNotFinite {
        /// The tensor file.
        file: String,
        /// Tensor name.
        name: String,
        /// Flat index of the element.
        element: usize,
        /// Its value.
        value: f32,
    },
    /// An activation is NaN or infinite.
    #[error("{hook} is not finite at position {position} of prompt {prompt}; check the weights and interventions")]
    NotFinite {
        /// Hook point.
        hook: String,
        /// Prompt in the batch.
        prompt: usize,
        /// Position in the prompt.
        position: usize,
    },
    /// A hook point's name is unknown.
    #[error("no hook point `{name}`; the names are TransformerLens's, for example {examples}")]
    HookName {
        /// What was asked for.
        name: String,
        /// Some that exist.
        examples: String,
    },
    /// A hook point that this model has not.
    #[error("the model has no hook point {hook}: {why}")]
    NoSuchHook {
        /// The hook point.
        hook: String,
        /// Why.
        why: String,
    },
    /// A token outside the vocabulary.
    #[error(
        "prompt {prompt}, position {position}: token {token} is outside the vocabulary of {vocabulary} tokens; was the corpus tokenised for another model?"
    )]
    Token {
        /// Prompt in the batch.
        prompt: usize,
        /// Position in the prompt.
        position: usize,
        /// The id.
        token: u32,
        /// Vocabulary size.
        vocabulary: usize,
    },
    /// A prompt is empty or longer than the context.
    #[error("prompt {prompt} has {positions} positions; the model takes 1 to {context}")]
    Length {
        /// Prompt in the batch.
        prompt: usize,
        /// Its length.
        positions: usize,
        /// The model's context.
        context: usize,
    },
    /// A position that the prompt has not.
    #[error("prompt {prompt} has {positions} positions, so there is no position {position}")]
    Position {
        /// Prompt in the batch.
        prompt: usize,
        /// Asked position.
        position: String,
        /// Prompt length.
        positions: usize,
    },
    /// An intervention does not fit its hook point.
    #[error("the intervention at {hook} does not fit: {problem}")]
    Intervention {
        /// Hook point.
        hook: String,
        /// What does not fit.
        problem: String,
    },
    /// A prompt, or case, that there is not.
    #[error("there is no prompt {prompt}: there are {prompts}, counted from 0")]
    Prompt {
        /// Asked prompt.
        prompt: usize,
        /// Number of prompts or cases.
        prompts: usize,
    },
    /// Positions are listed for more or fewer prompts than there are.
    #[error("positions are listed for {lists} prompts, and there are {prompts}; give one list for each")]
    PositionLists {
        /// Number of lists.
        lists: usize,
        /// Number of prompts or cases.
        prompts: usize,
    },
    /// A scalar cannot be differentiated.
    #[error("scalar {scalar}: {problem}")]
    Scalar {
        /// The scalar.
        scalar: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A pass back cannot be cut there.
    #[error("a pass back cannot be cut at {hook}: {problem}")]
    Cut {
        /// The hook point.
        hook: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A session does not keep what a case needs.
    #[error("the session cannot go on from there: {problem}")]
    NotKept {
        /// What was not kept.
        problem: String,
    },
    /// The run was stopped from outside.
    #[error("stopped; nothing was written")]
    Stopped,
}

impl Error {
    pub(crate) fn not_finite(hook: HookPoint, Spot { prompt, position }: Spot) -> Error {
        Error::NotFinite { hook: hook.to_string(), prompt, position }
    }
}
