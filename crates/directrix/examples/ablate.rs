//! What does a direction do? Ablate it where it fires, and compare the next token's prediction.
//!
//!     cargo run --release --example ablate

use directrix::circuits::{Change, Trial, effects};
use directrix::corpus::{Prompts, Watch};
use directrix::lab::Wanted;
use directrix::model::Ask;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let opened = Wanted { saes: vec!["embedded:tinystories-2l/sae-l1".into()], ..Wanted::default() }.open()?;
    let (model, sae) = (&opened.model, &opened.saes[0]);
    let prompts: Prompts = opened.prompts_of("here", &["Tim had a toy. His mom said, \"I like it.\"".into()])?.prompts;

    // The directions that fire before the last token, which is the answer.
    let hook = sae.site().reads.hook;
    let run = model.run(&prompts, &Ask::capture([hook]), &[])?;
    let acts = sae.encode(run.captured(hook))?;
    let (directions, activations) = acts.at(prompts.positions() - 2);

    // Each ablated alone: all of them are computed together.
    let trial = |direction: &u32| Trial::answer(sae, &prompts, 0, Change::Ablate(vec![*direction]));
    let trials = directions.iter().map(trial).collect::<Result<Vec<_>, _>>()?;
    let effects = effects(model, &prompts, &trials, &Watch::nobody())?;
    for ((direction, activation), effect) in directions.iter().zip(activations).zip(&effects) {
        println!("{direction:>5}  activation {activation:5.2}  loss increase {:+.4} nats", effect.loss_increase()?);
    }
    Ok(())
}
