//! The split of the timesteps into the experts' ranges (paper section 3.1) and who denoises timestep t (eq. 7).
//! Called by the expert's training, the ensemble, the loss tables and the demo.

use std::ops::Range;

use crate::error::{Error, Result};

/// N ranges over the timesteps 0..T. Experts count from 0: of even ranges expert i has iT/N <= t < (i+1)T/N.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// N + 1 numbers from 0 to T, ascending: expert i has bounds_i <= t < bounds_i+1.
    bounds: Vec<u32>,
}

impl Ranges {
    /// N ranges of T/N timesteps; where N does not divide T they differ by one timestep at most.
    pub fn even(timesteps: u32, experts: u32) -> Result<Self> {
        if experts == 0 || experts > timesteps {
            let message = format!("{experts} ranges over {timesteps} timesteps");
            return Err(Error::usage(message, format!("use 1 to {timesteps} ranges")));
        }
        // The first whole t at or after iT/N: exactly where floor(tN/T) becomes i.
        let bound = |i: u32| (u64::from(i) * u64::from(timesteps)).div_ceil(u64::from(experts)) as u32;
        Ok(Self { bounds: (0..=experts).map(bound).collect() })
    }

    /// The ranges between `cuts`, which begin with 0, end with T and ascend.
    pub fn cut(timesteps: u32, cuts: &[u32]) -> Result<Self> {
        let whole = cuts.first() == Some(&0) && cuts.last() == Some(&timesteps);
        if whole && cuts.is_sorted_by(|a, b| a < b) {
            return Ok(Self { bounds: cuts.to_vec() });
        }
        let message = format!("ranges cannot be cut at {cuts:?}");
        Err(Error::usage(
            message,
            format!("cuts ascend from 0 to {timesteps}, such as 0,{},{timesteps}", timesteps / 4),
        ))
    }

    /// N
    pub fn len(&self) -> u32 {
        self.bounds.len() as u32 - 1
    }

    /// 0, where each range but the first begins, T.
    pub fn bounds(&self) -> &[u32] {
        &self.bounds
    }

    /// Never: there is at least one range.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// 0..T, from which a global draw comes.
    pub fn whole(&self) -> Range<u32> {
        0..self.bound(self.len())
    }

    /// The timesteps of expert `i`; empty from N on.
    pub fn range(&self, i: u32) -> Range<u32> {
        self.bound(i)..self.bound(i.saturating_add(1))
    }

    /// All ranges, in the order of the experts.
    pub fn iter(&self) -> impl Iterator<Item = Range<u32>> {
        self.bounds.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// The expert of timestep t < T: of even ranges i = floor(tN/T), eq. 7.
    pub fn index(&self, t: u32) -> u32 {
        self.bounds.partition_point(|&bound| bound <= t).saturating_sub(1) as u32
    }

    fn bound(&self, i: u32) -> u32 {
        self.bounds[i.min(self.len()) as usize]
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
                    assert!(range.clone().all(|t| t * experts / timesteps == i), "eq. 7: {timesteps} / {experts}");
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
        assert!(Ranges::even(1 << 20, 1 << 20).is_ok());
    }

    #[test]
    fn uneven_ranges_lie_between_their_cuts() {
        let ranges = Ranges::cut(1000, &[0, 100, 400, 1000]).unwrap();
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [0..100, 100..400, 400..1000]);
        assert_eq!([0, 99, 100, 399, 400, 999].map(|t| ranges.index(t)), [0, 0, 1, 1, 2, 2]);
        assert_eq!((ranges.len(), ranges.whole()), (3, 0..1000));
        assert_eq!(Ranges::cut(1000, &[0, 250, 500, 750, 1000]).unwrap(), Ranges::even(1000, 4).unwrap());
        for cuts in [&[][..], &[0], &[1000], &[0, 999], &[1, 1000], &[0, 500, 500, 1000], &[0, 600, 500, 1000]] {
            assert!(Ranges::cut(1000, cuts).is_err(), "{cuts:?}");
        }
    }
}
