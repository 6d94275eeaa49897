//! All cards, one file a family. `all` is the registry that the tests and `doctor` walk.

pub mod conv;
pub mod gemm;
pub mod attention;
pub mod broadcast;
pub mod loss;
pub mod merge;
pub mod noise;
pub mod optim;
pub mod norm;
pub mod peak;
pub mod pointwise;
pub mod pool;
pub mod resample;
mod tiles;
pub mod winograd;

use crate::shader::card::Card;

/// The cards of each family.
const FAMILIES: &[&[&Card]] = &[
    loss::CARDS,
    noise::CARDS,
    optim::CARDS,
    merge::CARDS,
    pointwise::CARDS,
    gemm::CARDS,
    conv::CARDS,
    winograd::CARDS,
    norm::CARDS,
    broadcast::CARDS,
    resample::CARDS,
    attention::CARDS,
    peak::CARDS,
    pool::CARDS,
];

/// Every card, in the order of the families.
pub fn all() -> impl Iterator<Item = &'static Card> {
    FAMILIES.iter().flat_map(|family| family.iter().copied())
}

pub fn find(word: &str) -> Option<&'static Card> {
    all().find(|card| card.word == word)
}
