//! Which image a training run sees when: one permutation an epoch, computed, not stored, so a resumed run is the same run.
//! Called by `train`.

use crate::rng::{self, Purpose};

const ROUNDS: u64 = 8;

/// The order of `count` images for one seed and one sub-stream (the expert's number, say).
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub seed: u64,
    pub sub: u32,
    /// Images an epoch; at least 1.
    pub count: u64,
}

impl Order {
    /// Place (0..count) of the `draw`-th image drawn since the run began: epoch = draw / count, each a permutation.
    pub fn image(&self, draw: u64) -> u64 {
        let count = self.count.max(1);
        permute(self.seed, rng::stream(Purpose::DataOrder, self.sub), draw / count, draw % count, count)
    }

    /// Where that draw is cropped: a corner in 0..=room on each axis, from a stream of its own.
    pub fn corner(&self, draw: u64, room: [u32; 2]) -> [u32; 2] {
        let words = rng::philox(self.seed, rng::stream(Purpose::DataCrop, self.sub), draw);
        [0, 1].map(|axis| ((u64::from(words[axis]) * (u64::from(room[axis]) + 1)) >> 32) as u32)
    }

    /// Whether that draw is mirrored: a fair coin of its own stream.
    pub fn flip(&self, draw: u64) -> bool {
        rng::philox(self.seed, rng::stream(Purpose::DataFlip, self.sub), draw)[0] >> 31 == 1
    }
}

/// A Feistel network on 2 `half` bits, keyed by philox, walked until it lands below `count`: a bijection of 0..count
/// because it is one of 0..4^half and each cycle is followed. 4^half < 4 count, so the walk takes 4 steps at most on average.
fn permute(seed: u64, stream: u64, epoch: u64, position: u64, count: u64) -> u64 {
    let half = (u64::BITS - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut x = position;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for round in 0..ROUNDS {
            let word = rng::philox(seed, stream, epoch << 32 | round << 24 | right)[0];
            (left, right) = (right, left ^ (u64::from(word) & mask));
        }
        x = left << half | right;
        if x < count {
            return x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_a_permutation_and_no_two_are_alike() {
        for count in [1, 2, 3, 4, 5, 7, 16, 17, 64, 100, 191, 1000, 1720, 4096, 4097, 60_000] {
            let order = Order { seed: 42, sub: 3, count };
            let mut epochs = Vec::new();
            for epoch in 0..3 {
                let drawn: Vec<u64> = (0..count).map(|i| order.image(epoch * count + i)).collect();
                let mut sorted = drawn.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..count).collect::<Vec<_>>(), "count {count}, epoch {epoch}");
                epochs.push(drawn);
            }
            if count >= 16 {
                assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2], "count {count}");
            }
        }
    }

    /// The first place of an epoch must be spread evenly over the images, over seeds as over epochs.
    #[test]
    fn places_are_uniform() {
        const COUNT: u64 = 10;
        for by_seed in [false, true] {
            let mut hits = [[0u32; COUNT as usize]; COUNT as usize];
            for i in 0..4000 {
                let (seed, epoch) = if by_seed { (i, 0) } else { (9, i) };
                let order = Order { seed, sub: 0, count: COUNT };
                for place in 0..COUNT {
                    hits[place as usize][order.image(epoch * COUNT + place) as usize] += 1;
                }
            }
            // 400 expected, standard deviation 19: five of them.
            assert!(hits.iter().flatten().all(|&h| (305..=495).contains(&h)), "{hits:?}");
        }
    }

    #[test]
    fn flips_are_fair_and_follow_seed_and_expert() {
        let flips = |seed, sub| (0..10_000).map(|i| Order { seed, sub, count: 1 }.flip(i)).collect::<Vec<_>>();
        let heads = flips(1, 0).iter().filter(|&&f| f).count();
        assert!((4750..=5250).contains(&heads), "{heads}");
        assert_ne!(flips(1, 0), flips(2, 0));
        assert_ne!(flips(1, 0), flips(1, 1));
    }

    #[test]
    fn corners_are_spread_over_the_room_and_follow_seed_and_expert() {
        let corners =
            |seed, sub| (0..10_000).map(|i| Order { seed, sub, count: 1 }.corner(i, [4, 0])).collect::<Vec<_>>();
        let mut hits = [0u32; 5];
        for [x, y] in corners(1, 0) {
            hits[x as usize] += 1;
            assert_eq!(y, 0);
        }
        // 2000 expected, standard deviation 40: five of them.
        assert!(hits.iter().all(|h| (1800..=2200).contains(h)), "{hits:?}");
        assert_ne!(corners(1, 0), corners(2, 0));
        assert_ne!(corners(1, 0), corners(1, 1));
    }

    /// Pinned: a change here silently changes every resumed run.
    #[test]
    fn the_order_is_pinned() {
        let order = Order { seed: 1, sub: 0, count: 12 };
        assert_eq!((0..12).map(|i| order.image(i)).collect::<Vec<_>>(), [6, 10, 4, 2, 7, 9, 0, 1, 8, 11, 5, 3]);
    }
}
