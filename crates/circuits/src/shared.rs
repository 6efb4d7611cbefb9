//! What processes that work together tell each other of what they found: plain numbers.

use directrix_model::Prediction;

use crate::{Effect, Error, Result, Seen};

/// Numbers as bytes.
pub(crate) fn to_bytes(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The numbers that another process gave.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Vec<f64>> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    if rest.is_empty() { Ok(numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()) } else { Err(foreign()) }
}

/// The error that what another process gave cannot be understood.
pub(crate) fn foreign() -> Error {
    let problem = "what one of them gave cannot be understood".into();
    directrix_corpus::Error::Ranks { problem }.into()
}

impl Seen {
    fn append(&self, numbers: &mut Vec<f64>) {
        match self {
            Seen::Prediction(Prediction { logit, log_prob, rank }) => {
                numbers.extend([0.0, f64::from(*logit), *log_prob, *rank as f64]);
            }
            Seen::MeanLoss(loss) => numbers.extend([1.0, *loss]),
            Seen::Activation(activation) => numbers.extend([2.0, f64::from(*activation)]),
            Seen::Activations(sums) => {
                numbers.extend([3.0, sums.len() as f64]);
                numbers.extend(sums.iter().flat_map(|(direction, sum)| [f64::from(*direction), *sum]));
            }
            Seen::LogProbs(log_probs) => {
                numbers.extend([4.0, log_probs.len() as f64]);
                numbers.extend(log_probs);
            }
        }
    }

    fn read(numbers: &mut impl Iterator<Item = f64>) -> Option<Seen> {
        Some(match numbers.next()? as u8 {
            0 => {
                let (logit, log_prob, rank) = (numbers.next()?, numbers.next()?, numbers.next()?);
                Seen::Prediction(Prediction { logit: logit as f32, log_prob, rank: rank as usize })
            }
            1 => Seen::MeanLoss(numbers.next()?),
            2 => Seen::Activation(numbers.next()? as f32),
            3 => {
                let n = numbers.next()? as usize;
                Seen::Activations(
                    (0..n).map(|_| Some((numbers.next()? as u32, numbers.next()?))).collect::<Option<_>>()?,
                )
            }
            4 => {
                let n = numbers.next()? as usize;
                Seen::LogProbs((0..n).map(|_| numbers.next()).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }
}

impl Effect {
    /// Appends it with the number of its trial.
    pub(crate) fn append(&self, trial: usize, numbers: &mut Vec<f64>) {
        numbers.push(trial as f64);
        self.before.append(numbers);
        self.after.append(numbers);
    }

    /// All that were appended, each with the number of its trial.
    pub(crate) fn read_all(numbers: Vec<f64>) -> Result<Vec<(usize, Effect)>> {
        let mut numbers = numbers.into_iter();
        let mut effects = Vec::new();
        while let Some(trial) = numbers.next() {
            let effect = Seen::read(&mut numbers).zip(Seen::read(&mut numbers));
            let (before, after) = effect.ok_or_else(foreign)?;
            effects.push((trial as usize, Effect { before, after }));
        }
        Ok(effects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_come_back_as_they_were() {
        let prediction = |logit| Seen::Prediction(Prediction { logit, log_prob: -0.1, rank: 50_000 });
        let effects = [
            Effect { before: prediction(1.25), after: prediction(-3e-20) },
            Effect { before: Seen::MeanLoss(f64::MIN_POSITIVE), after: Seen::MeanLoss(2.0 / 3.0) },
            Effect { before: Seen::Activation(0.1), after: Seen::Activation(0.0) },
            Effect { before: Seen::Activations(vec![(7, 0.3), (u32::MAX, -0.0)]), after: Seen::Activations(vec![]) },
            Effect { before: Seen::LogProbs(vec![-1.5; 3]), after: Seen::LogProbs(vec![-0.1, f64::MIN, 1e-300]) },
        ];
        let mut numbers = Vec::new();
        effects.iter().enumerate().for_each(|(trial, effect)| effect.append(trial, &mut numbers));
        let numbers = from_bytes(&to_bytes(&numbers)).unwrap();
        let back = Effect::read_all(numbers.clone()).unwrap();
        assert_eq!(back, effects.into_iter().enumerate().collect::<Vec<_>>());
        for cut in 1..numbers.len() {
            let read = Effect::read_all(numbers[..cut].to_vec());
            assert!(read.is_err() || read.unwrap().len() < 5, "{cut}");
        }
        assert!(from_bytes(b"1234567").is_err());
    }
}
