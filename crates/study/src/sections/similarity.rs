//! How alike the directions of the SAE taken apart are.

use directrix_circuits::{SimilarPair, Similarity as Found, similarities};

use super::{Body, SectionKind, count, figure, table};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// Cosines within the decoder, within the encoder and between the two.
    Similarity {
        /// Pairs listed of each.
        pairs: usize = 20 => 1.0..,
    }
}

impl SectionKind for Similarity {
    const KIND: &str = "similarity";
    const TITLE: &str = "How alike the directions are";
    const BY_DEFAULT: bool = false;

    fn make(&self, found: &Findings) -> Result<Body> {
        let sae = found.sae();
        let all = similarities(sae, self.pairs, found.watch)?;
        let mut prose: Vec<String> = all.iter().map(|of| spread(of, sae.d_out().max(sae.d_in()))).collect();
        if let Some(own) = all.iter().find(|of| !of.own.is_empty()) {
            prose.push(own_cosines(&own.own));
        } else {
            prose.push(
                "It reads and writes rows of different widths, so that there is no cosine between encoder and decoder."
                    .into(),
            );
        }
        let mut blocks = Vec::new();
        for of in &all {
            let name = of.between.replace(" and ", "-");
            blocks.push(figure(
                &format!("similarity-{name}"),
                &format!("Cosines between {}", of.between),
                ("cosine", "pairs of directions"),
                &format!(
                    "All {} pairs of two directions of {}; counts on a logarithmic scale.",
                    of.pairs,
                    sae.short_name()
                ),
                histogram(of),
            ));
            let nearest: Vec<f64> = of.nearest.iter().map(|cosine| *cosine as f64).collect();
            blocks.push(figure(
                &format!("nearest-{name}"),
                &format!("The nearest other direction, {}", of.between),
                ("highest cosine with another direction", "directions"),
                "Every direction once.",
                Shape::histogram(&nearest, 50),
            ));
        }
        let pairs: Vec<SimilarPair> = all.iter().flat_map(|of| of.top.iter().copied()).collect();
        blocks.push(table(
            "similar-pairs",
            "The pairs of directions with the highest cosines, within the decoder (what they write), within the encoder (what they read) and between the encoder row of one and the decoder row of the other. Cosines of weights: no mean, no sample.",
            &pairs,
        ));
        Ok(Body { prose, blocks })
    }
}

/// The intervals from the first to the last that holds a pair.
fn histogram(of: &Found) -> Shape {
    let bins = of.counts.len();
    let is_there = |count: &u64| *count > 0;
    let first = of.counts.iter().position(is_there).unwrap_or(0);
    let last = of.counts.iter().rposition(is_there).unwrap_or(bins - 1);
    let edge = |i: usize| -1.0 + 2.0 * i as f64 / bins as f64;
    let counts = of.counts[first..=last].to_vec();
    Shape::Histogram { edges: (first..=last + 1).map(edge).collect(), counts, log_counts: true }
}

/// How cosines are spread, beside those of random rows.
fn spread(of: &Found, width: usize) -> String {
    let alike = of.nearest.iter().filter(|cosine| **cosine > 0.7).count();
    let random = 1.0 / (width as f64).sqrt();
    let verdict = if of.sd > 1.5 * random {
        "they point more alike, and more against each other, than chance would have it"
    } else if of.sd < 0.67 * random {
        "they are spread more evenly than chance would have it"
    } else {
        "about as chance would have it"
    };
    format!(
        "Between {}: mean cosine {:+.3}, standard deviation {:.3}, where random rows of {width} numbers have {random:.3}: {verdict}. {} of {} a cosine above 0.7 with another, as copies of one would.",
        of.between,
        of.mean,
        of.sd,
        alike,
        if of.nearest.len() == 1 { "1 has".into() } else { format!("{} have", count(of.nearest.len(), "direction")) },
    )
}

/// Whether directions write what they read.
fn own_cosines(own: &[f32]) -> String {
    let mean = own.iter().map(|cosine| *cosine as f64).sum::<f64>() / own.len() as f64;
    let low = own.iter().filter(|cosine| **cosine < 0.5).count();
    format!(
        "A direction’s own encoder and decoder rows have a mean cosine of {mean:.2} over all {}; {low} of them are below 0.5: these read something else than they write.",
        count(own.len(), "direction")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_told_beside_that_of_chance() {
        let of = |sd| Found {
            between: "decoder and decoder",
            pairs: 3,
            mean: 0.0,
            sd,
            counts: vec![0, 1, 2, 0],
            nearest: vec![0.9, 0.9, 0.1],
            top: Vec::new(),
            own: Vec::new(),
        };
        assert!(spread(&of(0.1), 100).contains("about as chance would have it. 2 of 3 directions have a cosine"));
        assert!(spread(&of(0.3), 100).contains("point more alike"));
        assert!(spread(&of(0.01), 100).contains("more evenly"));
        let Shape::Histogram { edges, counts, .. } = histogram(&of(0.1)) else { unreachable!("it is one") };
        assert_eq!((edges, counts), (vec![-0.5, 0.0, 0.5], vec![1, 2]));
    }
}
