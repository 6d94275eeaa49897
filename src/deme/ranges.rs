//! The split of the timesteps into the experts' ranges (paper section 3.1) and who denoises timestep t (eq. 7).
//! Called by the expert's training, the ensemble, the loss tables and the demo.

use std::ops::Range;

use crate::error::{Error, Result};

/// N ranges over the timesteps 0..T. Experts count from 0: expert i has iT/N <= t < (i+1)T/N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges {
    /// T
    timesteps: u32,
    /// N
    experts: u32,
}

impl Ranges {
    /// N ranges of T/N timesteps; where N does not divide T they differ by one timestep at most.
    pub fn even(timesteps: u32, experts: u32) -> Result<Self> {
        if experts == 0 || experts > timesteps {
            let message = format!("{experts} ranges over {timesteps} timesteps");
            return Err(Error::usage(message, format!("use 1 to {timesteps} ranges")));
        }
        Ok(Self { timesteps, experts })
    }

    /// N
    pub fn len(&self) -> u32 {
        self.experts
    }

    /// Never: there is at least one range.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// 0..T, from which a global draw comes.
    pub fn whole(&self) -> Range<u32> {
        0..self.timesteps
    }

    /// The timesteps of expert `i`; empty from N on.
    pub fn range(&self, i: u32) -> Range<u32> {
        self.bound(i)..self.bound(i.saturating_add(1))
    }

    /// All ranges, in the order of the experts.
    pub fn iter(&self) -> impl Iterator<Item = Range<u32>> {
        let ranges = *self;
        (0..ranges.experts).map(move |i| ranges.range(i))
    }

    /// The expert of timestep t: i = floor(tN/T), eq. 7.
    pub fn index(&self, t: u32) -> u32 {
        let i = u64::from(t) * u64::from(self.experts) / u64::from(self.timesteps);
        i as u32
    }

    /// The first whole t at or after iT/N: exactly where floor(tN/T) becomes i.
    fn bound(&self, i: u32) -> u32 {
        let i = u64::from(i.min(self.experts));
        (i * u64::from(self.timesteps)).div_ceil(u64::from(self.experts)) as u32
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn four_ranges_of_a_thousand() {
        let ranges = Ranges::even(1000, 4).unwrap();
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [0..250, 250..500, 500..750, 750..1000]);
        let owners = [0, 249, 250, 499, 500, 749, 750, 999].map(|t| ranges.index(t));
        assert_eq!(owners, [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(ranges.whole(), 0..1000);
    }

    #[test]
    fn every_timestep_has_one_owner_whatever_the_division() {
        for timesteps in [1, 2, 7, 10, 50, 1000, 1001] {
            for experts in 1..=timesteps.min(64) {
                let ranges = Ranges::even(timesteps, experts).unwrap();
                let mut next = 0;
                for (i, range) in (0..).zip(ranges.iter()) {
                    assert_eq!(range.start, next);
                    assert!(range.len() as u32 >= timesteps / experts);
                    assert!(range.len() as u32 <= timesteps.div_ceil(experts));
                    assert!(range.clone().all(|t| ranges.index(t) == i), "{timesteps} / {experts}: {range:?}");
                    next = range.end;
                }
                assert_eq!(next, timesteps);
                assert!(ranges.range(experts).is_empty());
            }
        }
    }

    #[test]
    fn none_and_more_ranges_than_timesteps_are_refused() {
        assert!(Ranges::even(1000, 0).is_err());
        assert!(Ranges::even(10, 11).is_err());
        assert!(Ranges::even(u32::MAX, u32::MAX).is_ok());
    }
}
