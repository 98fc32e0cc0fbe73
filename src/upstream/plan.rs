//! The order in which endpoints are tried, and who takes a turn at being the first.

use std::collections::BTreeMap;
use std::time::Duration;

use super::EndpointId;

/// The order in which to try endpoints.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Best first. Neighbours are of different operators as far as there are any.
    pub order: Vec<Candidate>,
    /// Places in `order`, one an operator, of those that are hardly slower than the best: each
    /// [`Self::TURN`]th question goes to one of them first.
    pub turns: Vec<usize>,
    /// No endpoint answers: a question is most likely in vain.
    pub all_down: bool,
}

/// An endpoint in a [`Plan`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// Which.
    pub id: EndpointId,
    /// Who runs it.
    pub operator: String,
    /// Whether it may be asked beside one that is only slow. Not, if it is down while others
    /// answer, or its certificate passes rule R only though the clock is set.
    pub hedges: bool,
    /// Silent for this long, it is slower than about 19 of 20 of its answers: ask the next too.
    pub hedge_after: Duration,
}

impl Plan {
    /// The plan that follows from where each endpoint stands; with turns if `spread`.
    pub(super) fn new(
        standings: &[Standing],
        operator: impl Fn(usize) -> String,
        spread: bool,
        all_down: bool,
    ) -> Self {
        let order = arrange(standings);
        let turns = if spread { turns(&order, standings) } else { Vec::new() };
        let candidate = |index: usize| {
            let standing = standings.get(index)?;
            Some(Candidate {
                id: EndpointId(index),
                operator: operator(standing.operator),
                hedges: standing.hedges,
                hedge_after: standing.hedge_after,
            })
        };
        Self { order: order.into_iter().filter_map(candidate).collect(), turns, all_down }
    }

    /// Of so many questions, one goes first to another operator than the best one's.
    pub const TURN: u64 = 8;

    /// Whom to try for one question, which is the `turn`th.
    pub fn order_at(&self, turn: u64) -> impl Iterator<Item = &Candidate> {
        let rounds = usize::try_from(turn / Self::TURN).unwrap_or_default();
        let first = match self.turns.len() {
            operators @ 1.. if turn % Self::TURN == Self::TURN - 1 => {
                self.turns.get(rounds % operators).copied()
            }
            _ => None,
        };
        let rest = self.order.iter().enumerate();
        let rest = rest.filter_map(move |(place, it)| (Some(place) != first).then_some(it));
        first.and_then(|place| self.order.get(place)).into_iter().chain(rest)
    }

    /// How many of a thousand questions go first to the endpoint at `place`.
    #[must_use]
    pub fn share(&self, place: usize) -> u32 {
        const THOUSAND: u64 = 1000;
        let operators = self.turns.len() as u64;
        let turns = if operators == 0 { 0 } else { THOUSAND / Self::TURN };
        let share = match place {
            0 => THOUSAND - turns,
            _ if self.turns.contains(&place) => turns / operators,
            _ => 0,
        };
        u32::try_from(share).unwrap_or_default()
    }
}

/// What decides an endpoint's place, and whatever else a plan says of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Standing {
    /// Who runs it: a place in the list of operators.
    pub(super) operator: usize,
    /// 0 is tried first.
    pub(super) rank: u8,
    /// How long an answer is expected to take.
    pub(super) expected: Duration,
    /// Whether it is known to answer.
    pub(super) proven: bool,
    pub(super) hedges: bool,
    pub(super) hedge_after: Duration,
}

/// The best of each rank first; among equals no operator twice in a row, nor before the others
/// had their turn. Gives places in `standings`.
fn arrange(standings: &[Standing]) -> Vec<usize> {
    let mut left: Vec<(usize, &Standing)> = standings.iter().enumerate().collect();
    left.sort_by_key(|(index, standing)| (standing.rank, standing.expected, *index));
    let mut rounds = BTreeMap::<(u8, usize), usize>::new();
    let mut order: Vec<usize> = Vec::with_capacity(left.len());
    let mut last = None;
    while let Some(&(_, &Standing { rank, .. })) = left.first() {
        let next = left
            .iter()
            .enumerate()
            .take_while(|(_, (_, standing))| standing.rank == rank)
            .min_by_key(|(_, (_, standing))| {
                let round = rounds.get(&(rank, standing.operator)).copied().unwrap_or_default();
                (last == Some(standing.operator), round)
            })
            .map_or(0, |(place, _)| place);
        let (index, standing) = left.remove(next);
        *rounds.entry((rank, standing.operator)).or_default() += 1;
        last = Some(standing.operator);
        order.push(index);
    }
    order
}

/// Slower than the best by this much, an operator takes no turn.
const HARDLY: Duration = Duration::from_millis(50);

/// Places in `order` of the best endpoint of each operator but the first's, where it is known to
/// answer and hardly slower than the first.
fn turns(order: &[usize], standings: &[Standing]) -> Vec<usize> {
    let known = |index: &usize| standings.get(*index);
    let Some(best) = order.first().and_then(known) else { return Vec::new() };
    let mut operators = vec![best.operator];
    let mut turns = Vec::new();
    for (place, index) in order.iter().enumerate() {
        let Some(standing) = known(index) else { continue };
        let fits = standing.rank == best.rank && standing.expected <= best.expected + HARDLY;
        if fits && standing.proven && !operators.contains(&standing.operator) {
            operators.push(standing.operator);
            turns.push(place);
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_are_of_different_operators_and_each_has_its_turn() {
        let operators = ["quad9", "quad9", "quad9", "dns0", "google"];
        let standings = operators.map(|operator| standing(operator.len(), 0, 10));

        assert_eq!(arrange(&standings), [0, 3, 4, 1, 2]);
    }

    #[test]
    fn an_operator_far_slower_than_the_best_takes_no_turn() {
        let mut standings = [standing(0, 0, 10), standing(1, 0, 60), standing(2, 0, 61)];
        let order = arrange(&standings);
        assert_eq!(turns(&order, &standings), [1]);

        standings[1].proven = false;

        assert!(turns(&order, &standings).is_empty());
    }

    proptest! {
        #[test]
        fn no_operator_comes_twice_in_a_row_while_another_of_the_same_rank_is_left(
            standings in standings(),
        ) {
            let order = arrange(&standings);

            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..standings.len()).collect::<Vec<_>>());
            prop_assert!(order.is_sorted_by_key(|index| standings[*index].rank));
            for (place, pair) in order.windows(2).enumerate() {
                let [before, after] = [standings[pair[0]], standings[pair[1]]];
                if before.operator == after.operator {
                    let left = order[place + 1..].iter().map(|index| standings[*index]);
                    let mut same_rank = left.filter(|it| it.rank == after.rank);
                    prop_assert!(same_rank.all(|it| it.operator == before.operator));
                }
            }
        }

        #[test]
        fn no_operator_is_first_for_more_than_seven_of_eight_questions_if_another_fits(
            standings in standings(), begin in 0_u64..1000,
        ) {
            let plan = Plan::new(&standings, |operator| operator.to_string(), true, false);
            let mut firsts = BTreeMap::<&str, u32>::new();
            for turn in begin..begin + 8000 {
                let tried: Vec<_> = plan.order_at(turn).collect();
                prop_assert_eq!(tried.len(), plan.order.len());
                let Some(first) = tried.first() else { continue };
                *firsts.entry(&first.operator).or_default() += 1;
            }

            let most = firsts.values().max().copied().unwrap_or_default();
            let alone = plan.turns.is_empty();
            prop_assert_eq!(most, if plan.order.is_empty() { 0 } else if alone { 8000 } else { 7000 });
            let shares: u32 = (0..plan.order.len()).map(|place| plan.share(place)).sum();
            prop_assert!(plan.order.is_empty() || (990..=1000).contains(&shares));
        }
    }

    fn standings() -> impl Strategy<Value = Vec<Standing>> {
        let any = (0..4_usize, 0..3_u8, 0..100_u64);
        prop::collection::vec(
            any.prop_map(|(operator, rank, ms)| standing(operator, rank, ms)),
            0..12,
        )
    }

    fn standing(operator: usize, rank: u8, ms: u64) -> Standing {
        let (expected, hedge_after) = (Duration::from_millis(ms), Duration::ZERO);
        Standing { operator, rank, expected, proven: true, hedges: true, hedge_after }
    }
}
