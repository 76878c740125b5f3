//! Decides which card a model is on whose device is `auto`: the largest model first, onto the card with the most free memory
//! that holds it. A model that no card holds is computed elsewhere, and the reasons are kept for whoever asks.

use std::{cmp::Reverse, fmt};

use crate::{memory::human_bytes, model::spec::DeviceName};

/// A device that automatic placement prefers to the one that was chosen, and why it was not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The device.
    pub device: DeviceName,
    /// Why the model is not there.
    pub reason: PassReason,
}

/// Why automatic placement did not choose a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassReason {
    /// The device itself cannot be used; the text says what is missing.
    Unusable(String),
    /// It has too little memory left.
    Memory {
        /// Bytes that the model needs there, with the smallest KV pool.
        needed: u64,
        /// Bytes of the device's budget that no other model was promised.
        left: u64,
        /// Bytes of the device's budget for models.
        budget: u64,
    },
    /// It does not compute this model; the text says why.
    Model(String),
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device;
        match &self.reason {
            PassReason::Unusable(reason) => write!(f, "{device} cannot be used: {reason}"),
            PassReason::Memory { needed, left, budget } => write!(
                f,
                "{device} has {} left of its {} for models, and the model needs {} there",
                human_bytes(*left),
                human_bytes(*budget),
                human_bytes(*needed)
            ),
            PassReason::Model(reason) => write!(f, "{device} does not compute this model: {reason}"),
        }
    }
}

/// A card that models may be placed on.
#[derive(Debug, Clone)]
pub(super) struct Card {
    pub(super) name: DeviceName,
    /// Bytes that models may take there.
    pub(super) budget: u64,
    /// Bytes that models which are loaded at the start need.
    pub(super) eager: u64,
    /// Bytes that all models need which were placed there.
    pub(super) promised: u64,
}

impl Card {
    /// Promises memory to a model.
    pub(super) fn promise(&mut self, bytes: u64, is_eager: bool) {
        self.promised = self.promised.saturating_add(bytes);
        if is_eager {
            self.eager = self.eager.saturating_add(bytes);
        }
    }

    /// Bytes that are left beside all models that were placed there.
    fn left(&self) -> u64 {
        self.budget.saturating_sub(self.promised)
    }

    /// Bytes that are left beside the models which stay in memory. The others take turns.
    fn left_beside_eager(&self) -> u64 {
        self.budget.saturating_sub(self.eager)
    }
}

/// What a model needs on a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CardNeed {
    /// So many bytes, with the smallest KV pool.
    Bytes(u64),
    /// Nothing: another id has the same model there.
    Shared,
    /// It is not computed there, for this reason.
    Impossible(String),
}

/// A model that is to be placed.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// Whether it is loaded at the start, and stays in memory.
    pub(super) is_eager: bool,
    /// What it needs on each card.
    pub(super) needs: Vec<CardNeed>,
}

/// Where a model is placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// On the card with this index.
    Card(usize),
    /// On none of the cards, for these reasons.
    NoCard(Vec<PassedOver>),
}

/// Places every model. Those that are loaded at the start come first, and of them the largest.
pub(super) fn place(cards: &mut [Card], wishes: &[Wish]) -> Vec<Place> {
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by_key(|&index| (!wishes[index].is_eager, Reverse(largest(&wishes[index]))));
    let mut places = vec![Place::NoCard(Vec::new()); wishes.len()];
    for index in order {
        places[index] = place_one(cards, &wishes[index]);
    }
    places
}

/// The most that a model needs on any card.
fn largest(wish: &Wish) -> u64 {
    let bytes = wish.needs.iter().map(|need| match need {
        CardNeed::Bytes(bytes) => *bytes,
        CardNeed::Shared | CardNeed::Impossible(_) => 0,
    });
    bytes.max().unwrap_or(0)
}

fn place_one(cards: &mut [Card], wish: &Wish) -> Place {
    if let Some(card) = wish.needs.iter().position(|need| *need == CardNeed::Shared) {
        return Place::Card(card);
    }
    let fitting = |left: fn(&Card) -> u64| {
        let candidates = cards.iter().zip(&wish.needs).enumerate();
        let fitting = candidates.filter_map(|(index, (card, need))| match need {
            CardNeed::Bytes(bytes) if *bytes <= left(card) => Some((index, left(card), *bytes)),
            CardNeed::Bytes(_) | CardNeed::Shared | CardNeed::Impossible(_) => None,
        });
        // Of cards with as much memory left, the first.
        fitting.min_by_key(|(index, left, _)| (Reverse(*left), *index))
    };
    let beside_all = fitting(Card::left);
    let chosen = match beside_all {
        None if !wish.is_eager => fitting(Card::left_beside_eager),
        chosen => chosen,
    };
    match chosen {
        Some((index, _, bytes)) => {
            cards[index].promise(bytes, wish.is_eager);
            Place::Card(index)
        }
        None => Place::NoCard(reasons(cards, wish)),
    }
}

fn reasons(cards: &[Card], wish: &Wish) -> Vec<PassedOver> {
    let reason = |(card, need): (&Card, &CardNeed)| {
        let reason = match need {
            CardNeed::Bytes(needed) => PassReason::Memory {
                needed: *needed,
                left: match wish.is_eager {
                    true => card.left(),
                    false => card.left_beside_eager(),
                },
                budget: card.budget,
            },
            CardNeed::Impossible(reason) => PassReason::Model(reason.clone()),
            CardNeed::Shared => return None,
        };
        Some(PassedOver {
            device: card.name,
            reason,
        })
    };
    cards.iter().zip(&wish.needs).filter_map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cards(budgets: &[u64]) -> Vec<Card> {
        let numbered = (0..).zip(budgets);
        let card = |(number, budget): (u32, &u64)| Card {
            name: DeviceName::Cuda(number),
            budget: *budget,
            eager: 0,
            promised: 0,
        };
        numbered.map(card).collect()
    }

    /// A model that needs so many bytes, the same on all cards.
    fn wish(bytes: u64, is_eager: bool, cards: usize) -> Wish {
        Wish {
            is_eager,
            needs: vec![CardNeed::Bytes(bytes); cards],
        }
    }

    fn placed(budgets: &[u64], wishes: &[(u64, bool)]) -> Vec<Place> {
        let wishes: Vec<Wish> = wishes
            .iter()
            .map(|(bytes, is_eager)| wish(*bytes, *is_eager, budgets.len()))
            .collect();
        place(&mut cards(budgets), &wishes)
    }

    fn passed(number: u32, needed: u64, left: u64, budget: u64) -> PassedOver {
        PassedOver {
            device: DeviceName::Cuda(number),
            reason: PassReason::Memory { needed, left, budget },
        }
    }

    #[test]
    fn the_largest_goes_first_to_the_card_with_the_most_free_memory() {
        use Place::Card;
        // 70 onto the card of 100; then 60 fits only beside nothing, on the other; 25 where more is left.
        let found = placed(&[80, 100], &[(25, true), (60, true), (70, true)]);
        assert_eq!(found, [Card(1), Card(0), Card(1)]);
        // Of equal cards the first, and then the emptier one.
        assert_eq!(placed(&[50, 50], &[(10, true), (10, true)]), [Card(0), Card(1)]);
    }

    #[test]
    fn what_no_card_holds_is_told_with_the_numbers_of_each() {
        let found = placed(&[50, 40], &[(45, true), (41, true)]);
        let expected = Place::NoCard(vec![passed(0, 41, 5, 50), passed(1, 41, 40, 40)]);
        assert_eq!(found, [Place::Card(0), expected]);
        assert_eq!(
            passed(0, 3 << 30, 1 << 30, 2 << 30).to_string(),
            "cuda:0 has 1.0 GiB left of its 2.0 GiB for models, and the model needs 3.0 GiB there"
        );
    }

    #[test]
    fn models_that_take_turns_share_what_the_eager_ones_leave() {
        use Place::Card;
        // The lazy ones do not fit beside each other, but each fits beside the eager one.
        let found = placed(&[100], &[(60, false), (50, false), (40, true)]);
        assert_eq!(found, [Card(0), Card(0), Card(0)]);
        let found = placed(&[100], &[(61, false), (40, true)]);
        assert_eq!(found, [Place::NoCard(vec![passed(0, 61, 60, 100)]), Card(0)]);
    }

    #[test]
    fn a_model_that_is_there_already_takes_nothing_and_one_that_cannot_be_there_goes_elsewhere() {
        let mut two = cards(&[10, 10]);
        let impossible = || CardNeed::Impossible("no kernels for it".to_owned());
        let wishes = [
            Wish {
                is_eager: true,
                needs: vec![CardNeed::Bytes(5), CardNeed::Shared],
            },
            Wish {
                is_eager: true,
                needs: vec![impossible(), CardNeed::Bytes(10)],
            },
            Wish {
                is_eager: true,
                needs: vec![impossible(), impossible()],
            },
        ];
        let found = place(&mut two, &wishes);
        assert_eq!(found[..2], [Place::Card(1), Place::Card(1)]);
        let Place::NoCard(reasons) = &found[2] else {
            panic!("no card computes it");
        };
        assert_eq!(
            reasons[1].to_string(),
            "cuda:1 does not compute this model: no kernels for it"
        );
    }
}
