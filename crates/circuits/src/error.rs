//! What can go wrong in an analysis.

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// That a threshold is a number that activations can be compared with.
pub(crate) fn threshold(option: &'static str, value: impl Into<f64>) -> Result<()> {
    if value.into().is_nan() { Err(Error::Threshold { option }) } else { Ok(()) }
}

/// An error of the circuits room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The corpus could not be read or tokenised.
    #[error(transparent)]
    Corpus(#[from] directrix_corpus::Error),
    /// The model could not be run.
    #[error(transparent)]
    Model(directrix_model::Error),
    /// An SAE could not be used.
    #[error(transparent)]
    Sae(#[from] directrix_sae::Error),
    /// The index could not be read.
    #[error(transparent)]
    Index(#[from] directrix_index::Error),
    /// No prompt shows the behaviour.
    #[error(
        "none of {documents} documents contains {contains:?} followed by {ends_with:?}; check the two texts, or take another corpus"
    )]
    NoPrompt {
        /// Documents looked at.
        documents: usize,
        /// What they should contain.
        contains: String,
        /// What should come after it.
        ends_with: String,
    },
    /// A corpus of ids without a tokenizer has no text.
    #[error(
        "the corpus holds token ids and the model folder no tokenizer.json, so there is no text to look for the behaviour in"
    )]
    NoText,
    /// A prompt with no position before its answer.
    #[error(
        "prompt {prompt} has fewer than two positions; prompts end with the answer, so that the position before it predicts it"
    )]
    Short {
        /// The prompt.
        prompt: usize,
    },
    /// A cosine that is not finite.
    #[error(
        "the cosine of direction {first} of the first SAE and direction {second} of the second is not finite; the weights are too large for single precision"
    )]
    NotFinite {
        /// Direction of the first SAE.
        first: usize,
        /// Direction of the second SAE.
        second: usize,
    },
    /// Two prompts that cannot be patched position by position.
    #[error(
        "the clean prompt has {clean} tokens and the corrupted one {corrupted}; values are exchanged position by position, so give two of equally many"
    )]
    UnequalPair {
        /// Tokens of the clean prompt.
        clean: usize,
        /// Tokens of the corrupted prompt.
        corrupted: usize,
    },
    /// A pair of which nothing can be learned.
    #[error("its two prompts, or its two answers, are the same; give two that differ")]
    SamePair,
    /// What is wrong with one of several pairs.
    #[error("pair {number} of those given: {problem}")]
    Pair {
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        problem: Box<Error>,
    },
    /// A token against itself.
    #[error("both tokens are {token}; give two that differ")]
    SameToken {
        /// The token.
        token: u32,
    },
    /// Two SAEs of different sites.
    #[error(
        "{first} is of {first_site} and {second} of {second_site}; directions are matched between SAEs of one site, so give two of the same"
    )]
    OtherSite {
        /// The SAE given first.
        first: String,
        /// What it reads.
        first_site: String,
        /// The SAE given second.
        second: String,
        /// What that reads.
        second_site: String,
    },
    /// Activations are compared over an index.
    #[error("activations are compared over an index of both SAEs; give one, or match the decoders")]
    NoIndex,
    /// So many pairs of directions are alike that they cannot be held.
    #[error("more than {most} pairs of directions are more alike than {least}; give a higher `least`")]
    TooMany {
        /// Pairs that can be held.
        most: usize,
        /// The least similarity asked for.
        least: f64,
    },
    /// A token that the model does not know.
    #[error("there is no token {token}: the vocabulary has {vocabulary}, counted from 0")]
    Token {
        /// The token.
        token: u32,
        /// Tokens there are.
        vocabulary: usize,
    },
    /// A list that should have one number for each of something.
    #[error("there are {given} {what}, expected {wanted}")]
    Lengths {
        /// Of what.
        what: &'static str,
        /// How many there are.
        given: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// A trial looked at something else than what is asked of its effect.
    #[error("the trial did not look at {wanted}; give it a `Look` that does")]
    Look {
        /// What is asked for.
        wanted: &'static str,
    },
    /// A threshold that nothing can be compared with.
    #[error("the option `{option}` is not a number; give one")]
    Threshold {
        /// The option.
        option: &'static str,
    },
    /// The work was stopped from outside.
    #[error("stopped; nothing was written")]
    Stopped,
    /// The work was stopped from outside, and goes on where it was.
    #[error("stopped after {done} of {total} {unit}; run the same command again to go on from there")]
    StoppedAt {
        /// How much was done.
        done: usize,
        /// How much there is.
        total: usize,
        /// What these count.
        unit: &'static str,
    },
    /// Edges that are kept were measured on something else.
    #[error("{path}: {problem}; `directrix index --edges` measures them anew")]
    OtherEdges {
        /// The file.
        path: std::path::PathBuf,
        /// What is other.
        problem: String,
    },
    /// What an attribution graph cannot be made of, or does not have.
    #[error("attribution graph: {problem}")]
    Graph {
        /// Why.
        problem: String,
    },
    /// Two SAEs in the wrong order.
    #[error(
        "{first} (layer {first_layer}) must come before {second} (layer {second_layer}) in the model; give the earlier SAE first"
    )]
    Order {
        /// The SAE given first.
        first: String,
        /// Its layer.
        first_layer: usize,
        /// The SAE given second.
        second: String,
        /// Its layer.
        second_layer: usize,
    },
    /// A path that a model with attention and MLP side by side does not have.
    #[error(
        "in this model attention and MLP of a block read the same residual stream, so that {first} does not reach {second}, both in block {layer}; take a second SAE of a later block"
    )]
    Parallel {
        /// The SAE given first.
        first: String,
        /// The SAE given second.
        second: String,
        /// Their block.
        layer: usize,
    },
    /// A head that the model does not have.
    #[error("there is no head {layer}.{head}: the model has {layers} blocks of {heads} heads, both counted from 0")]
    NoHead {
        /// The block.
        layer: usize,
        /// The head.
        head: usize,
        /// Blocks there are.
        layers: usize,
        /// Heads of each.
        heads: usize,
    },
    /// A head that does not lie between two SAEs.
    #[error(
        "head {layer}.{head} does not lie between {first}, which the first SAE writes, and {second}, which the second reads"
    )]
    HeadNotBetween {
        /// The block.
        layer: usize,
        /// The head.
        head: usize,
        /// What the first SAE writes.
        first: directrix_model::HookPoint,
        /// What the second SAE reads.
        second: directrix_model::HookPoint,
    },
    /// An SAE whose directions cannot be nodes of a circuit.
    #[error("{sae} {problem}; give SAEs that reconstruct what they read as it is, each of a site of its own")]
    NoNodes {
        /// The SAE.
        sae: String,
        /// What is in the way.
        problem: &'static str,
    },
    /// A prompt whose answer is set against itself.
    #[error(
        "prompt {prompt} ends with the token that its answer is set against, so that their logits never differ; give another token"
    )]
    SameAnswer {
        /// The prompt, counted from 0.
        prompt: usize,
    },
    /// A change that is spelled wrongly.
    #[error("`{text}`: {problem}")]
    Spelling {
        /// The change.
        text: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A part to be replaced by its mean, of which there is none.
    #[error("the mean of a part is over a corpus, and there is none; give an index, or write `=zero`")]
    NoMeans,
    /// A behaviour that does not depend on what is ablated.
    #[error(
        "the behaviour is the same with every node at its mean, so that no circuit can be told from none; give prompts that differ, or SAEs at other sites"
    )]
    NothingAblated,
    /// An SAE whose gradient is not that of its encoder.
    #[error(
        "{sae} normalises what it reads, so that attribution by its encoder alone would be wrong; take an SAE that does not, or rank by causal effect"
    )]
    Normalises {
        /// The SAE.
        sae: String,
    },
}

impl From<directrix_model::Error> for Error {
    fn from(error: directrix_model::Error) -> Error {
        match error {
            directrix_model::Error::Stopped => Error::Stopped,
            error => Error::Model(error),
        }
    }
}
