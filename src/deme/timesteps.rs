//! Probabilistic sampling of timesteps (eq. 6): an expert mostly sees its own range, and with probability p any timestep.
//! Called by `deme::expert` for every micro-batch. Nothing is stored: a draw is a function of (seed, expert, number).

use std::ops::Range;

use crate::rng::{self, Purpose};

/// What one toss of the coin decides for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coin {
    /// The whole micro-batch, as the official code does.
    MicroBatch,
    /// Each sample, its antithetic partner included.
    Sample,
}

/// How an expert draws its timesteps.
#[derive(Debug, Clone, PartialEq)]
pub struct TimestepDraw {
    pub seed: u64,
    /// The expert's number i.
    pub expert: u32,
    /// The expert's range [iT/N, (i+1)T/N).
    pub own: Range<usize>,
    /// T.
    pub total: usize,
    /// p: how often the whole range [0, T) is drawn from. With p = 1 the range has no meaning.
    pub p: f64,
    pub coin: Coin,
    /// The second half of a micro-batch mirrors the first within its range: t -> low + high - 1 - t.
    pub antithetic: bool,
}

impl TimestepDraw {
    /// The timesteps of micro-batch number `micro`.
    pub fn micro_batch(&self, micro: u64, batch: usize) -> Vec<usize> {
        let draws = if self.antithetic { batch / 2 + 1 } else { batch };
        let ranges: Vec<_> = (0..draws).map(|j| self.range_of(micro, batch, j)).collect();
        let drawn: Vec<_> = (0..).zip(&ranges).map(|(j, range)| self.draw(micro, batch, j, range)).collect();
        let mirrored = drawn.iter().zip(&ranges).map(|(&t, range)| range.start + range.end - 1 - t);
        drawn.iter().copied().chain(mirrored).take(batch).collect()
    }

    /// Whether draw `j` comes from the expert's own range or from all timesteps.
    fn range_of(&self, micro: u64, batch: usize, j: usize) -> Range<usize> {
        let toss = match self.coin {
            Coin::MicroBatch => micro,
            Coin::Sample => number(micro, batch, j),
        };
        let whole = rng::uniform(self.seed, rng::stream(Purpose::TrainCoin, self.expert), toss) < self.p;
        if whole { 0..self.total } else { self.own.clone() }
    }

    fn draw(&self, micro: u64, batch: usize, j: usize, range: &Range<usize>) -> usize {
        let stream = rng::stream(Purpose::TrainTimestep, self.expert);
        range.start + rng::below(self.seed, stream, number(micro, batch, j), range.len() as u64) as usize
    }
}

/// The number of a draw; draws of a micro-batch are at most as many as its samples, so no two share one.
fn number(micro: u64, batch: usize, j: usize) -> u64 {
    micro * batch as u64 + j as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 4;

    fn draw(coin: Coin, antithetic: bool) -> TimestepDraw {
        TimestepDraw { seed: 7, expert: 1, own: 250..500, total: 1000, p: 0.4, coin, antithetic }
    }

    /// Eq. 6: t lies in the own range with probability 1 - p + p/N.
    #[test]
    fn the_own_range_gets_its_share() {
        const MICRO: u64 = 4000;
        for coin in [Coin::MicroBatch, Coin::Sample] {
            for antithetic in [false, true] {
                let draw = draw(coin, antithetic);
                let all: Vec<usize> = (0..MICRO).flat_map(|m| draw.micro_batch(m, 16)).collect();
                let own = all.iter().filter(|t| draw.own.contains(t)).count() as f64 / all.len() as f64;
                let expected = 1.0 - draw.p + draw.p / N as f64;
                // Five standard deviations of as many tosses as there are micro-batches.
                let tolerance = 5.0 * (expected * (1.0 - expected) / MICRO as f64).sqrt();
                assert!((own - expected).abs() < tolerance, "{coin:?} {antithetic}: {own} for {expected}");
            }
        }
    }

    #[test]
    fn every_timestep_of_the_range_is_drawn_and_none_beyond() {
        let draw = TimestepDraw { p: 0.0, ..draw(Coin::MicroBatch, true) };
        let mut seen = vec![false; draw.total];
        (0..1000).flat_map(|m| draw.micro_batch(m, 16)).for_each(|t| seen[t] = true);
        assert!((0..draw.total).all(|t| seen[t] == draw.own.contains(&t)));
    }

    #[test]
    fn the_second_half_mirrors_the_first() {
        let draw = TimestepDraw { p: 0.0, ..draw(Coin::Sample, true) };
        for batch in [1, 2, 5, 16] {
            let t = draw.micro_batch(3, batch);
            assert_eq!(t.len(), batch);
            let half = batch / 2 + 1;
            for j in half..batch {
                assert_eq!(t[j], 250 + 499 - t[j - half]);
            }
        }
    }

    #[test]
    fn one_toss_decides_for_a_micro_batch() {
        let draw = TimestepDraw { own: 0..1, total: 1 << 20, ..draw(Coin::MicroBatch, false) };
        let mut whole = 0;
        for micro in 0..1000 {
            let zeros = draw.micro_batch(micro, 8).iter().filter(|&&t| t == 0).count();
            assert!(zeros == 8 || zeros == 0, "{zeros} of 8 in the own range");
            whole += usize::from(zeros == 0);
        }
        assert!((320..480).contains(&whole), "{whole} of 1000 at p = 0.4");
    }

    #[test]
    fn experts_and_seeds_differ_and_a_draw_repeats() {
        let one = draw(Coin::MicroBatch, true);
        assert_eq!(one.micro_batch(5, 16), one.micro_batch(5, 16));
        assert_ne!(one.micro_batch(5, 16), one.micro_batch(6, 16));
        assert_ne!(one.micro_batch(5, 16), TimestepDraw { expert: 2, ..one.clone() }.micro_batch(5, 16));
        assert_ne!(one.micro_batch(5, 16), TimestepDraw { seed: 8, ..one.clone() }.micro_batch(5, 16));
    }
}
