//! What fires together.

use directrix_corpus::{Event, Watch};
use rayon::prelude::*;

use super::{Between, Edge, Half, Measure, Ranked};
use crate::{Error, Result};

/// Positions at which both must fire: with fewer, the rarest pairs come first by chance.
const LEAST: u32 = 20;
/// First directions counted together.
const DIRECTIONS: usize = 64;

/// Sums over the positions at which a direction fires.
#[derive(Clone, Copy, Default)]
struct Alone {
    n: usize,
    sum: f64,
    squares: f64,
}

/// Of a first direction, a second one that fires at some of its positions.
struct Together {
    second: u32,
    n: u32,
    products: f64,
}

impl Between<'_> {
    /// What the index says of firing at the same position, over the positions that count of the prompts that rank: of every pair that
    /// does so at 20 positions or more, its mutual information, conditional probability and correlation, n positions each.
    ///
    /// Of n positions, with both firing at b of them and each alone at f and s: mutual information `ln(b n / (f s))` (Church and
    /// Hanks 1990), conditional probability `b / f`, and Pearson's correlation of activations, 0 where a direction does not fire.
    ///
    /// # Errors
    /// If the index is damaged, or [`Error::Stopped`].
    pub fn coactivation(&self, watch: &Watch, mut see: impl FnMut([Ranked; 3])) -> Result<()> {
        let of_half = (0..self.index.prompts()).filter(|prompt| Half::Ranks.has(*prompt));
        let lengths = of_half.map(|prompt| Ok(self.index.counted(prompt)?.len()));
        let positions = lengths.sum::<Result<usize>>()? as f64;
        let seconds = self.second.directions();
        let alone: Vec<Alone> = (0..seconds).into_par_iter().map(|second| self.alone(second)).collect::<Result<_>>()?;
        let firsts = self.first.directions();
        for start in (0..firsts).step_by(DIRECTIONS) {
            if watch.is_stopped() {
                return Err(Error::Stopped);
            }
            let directions = start..(start + DIRECTIONS).min(firsts);
            let found: Vec<(Alone, Vec<Together>)> =
                directions.clone().into_par_iter().map(|first| self.together(first)).collect::<Result<_>>()?;
            for (first, (of_first, together)) in directions.clone().zip(found) {
                for Together { second, n, products } in together.into_iter().filter(|pair| pair.n >= LEAST) {
                    let of_second = alone[second as usize];
                    let both = f64::from(n);
                    let information = (both * positions / (of_first.n as f64 * of_second.n as f64)).ln();
                    let spread = |of: Alone| (positions * of.squares - of.sum * of.sum).max(0.0).sqrt();
                    let covariance = positions * products - of_first.sum * of_second.sum;
                    let correlation = covariance / (spread(of_first) * spread(of_second));
                    let edge = Edge { first, second: second as usize };
                    let ranked =
                        |(measure, value)| Ranked { edge, measure, value, n: Some(n as usize), half_width: None };
                    see([
                        (Measure::MutualInformation, information),
                        (Measure::Conditional, both / of_first.n as f64),
                        (Measure::Correlation, correlation),
                    ]
                    .map(ranked));
                }
            }
            watch.tell(Event::new("co-activation", directions.end as u64, "directions").of(firsts as u64));
        }
        Ok(())
    }

    fn alone(&self, second: usize) -> Result<Alone> {
        let mut alone = Alone::default();
        for fires in self.of_second.fires(second)? {
            if Half::Ranks.has(fires.prompt) {
                alone.add(fires.activation);
            }
        }
        Ok(alone)
    }

    fn together(&self, first: usize) -> Result<(Alone, Vec<Together>)> {
        let mut alone = Alone::default();
        let mut sums = vec![(0_u32, 0.0_f64); self.second.directions()];
        for fires in self.of_first.fires(first)? {
            if !Half::Ranks.has(fires.prompt) {
                continue;
            }
            alone.add(fires.activation);
            let (seconds, values) = self.of_second.at(fires.prompt, fires.position)?;
            for (second, value) in seconds.iter().zip(values) {
                let (n, products) = &mut sums[*second as usize];
                *n += 1;
                *products += f64::from(fires.activation) * f64::from(*value);
            }
        }
        let pairs = sums.into_iter().enumerate().filter(|(_, (n, _))| *n > 0);
        let together = pairs.map(|(second, (n, products))| Together { second: second as u32, n, products });
        Ok((alone, together.collect()))
    }
}

impl Alone {
    fn add(&mut self, activation: f32) {
        let activation = f64::from(activation);
        self.n += 1;
        self.sum += activation;
        self.squares += activation * activation;
    }
}
