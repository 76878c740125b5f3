//! Which beginnings the prompts of a model's open sequences have in common.
//!
//! When a sequence arrives, it is asked how many leading blocks of its prompt other open sequences may put into the cache before
//! it runs; and while it waits, how many those may that have arrived since. Each owner's prompts are a tree whose nodes are
//! blocks, found by their hashes. So an answer takes as long as the beginning that is shared, however many sequences are open,
//! and the trees take memory in proportion to the prompts' blocks, about as much as the prompts' tokens.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use super::{prefix::CacheOwner, prompt_blocks::PromptBlocks, request::Priority};
use crate::backend::AdapterIndex;

/// The prompt of a sequence, with what decides which other sequences find its blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenPrompt<'a> {
    /// Which sequences find the blocks that the sequence puts into the cache.
    pub owner: &'a CacheOwner,
    /// The adapter that it runs with.
    pub adapter: Option<AdapterIndex>,
    /// Its class.
    pub class: Priority,
    /// The blocks of its prompt.
    pub blocks: &'a PromptBlocks,
}

/// Whose prompts are in one tree. Blocks of different adapters are never shared.
type TreeKey = (CacheOwner, Option<AdapterIndex>);

/// The prompts of all open sequences of a model.
#[derive(Debug, Default)]
pub(crate) struct OpenPrompts {
    /// Trees without open sequences are removed.
    trees: HashMap<TreeKey, PromptTree>,
    /// Sequences that have arrived so far.
    arrivals: u64,
}

/// The prompts of one owner that run with one adapter.
#[derive(Debug, Default)]
struct PromptTree {
    /// Stands before the first block of each prompt.
    root: Node,
    /// By the hash of the prompt up to the end of the node's block. Nodes without open sequences are removed.
    nodes: HashMap<u64, Node>,
    /// Nodes that questions have looked at so far.
    #[cfg(test)]
    looks: std::cell::Cell<usize>,
}

/// A block, in the place that it has in some prompts.
#[derive(Debug, Default)]
struct Node {
    /// Open sequences whose prompts have it.
    open: usize,
    /// Number of the newest sequence of each class whose prompt has it, whether or not that is still open; 0 for none. What a
    /// sequence has been told is not taken back when another one ends.
    newest: [u64; Priority::ALL.len()],
    /// The sequences whose prompts end with it.
    ends: Option<Box<PromptEnds>>,
}

/// The sequences whose prompts end with the same block. Their answers may continue as a longer prompt does.
#[derive(Debug, Default)]
struct PromptEnds {
    /// How many open ones put at most a given number of blocks into the cache, by that number.
    longest: BTreeMap<usize, usize>,
    /// Those of each class that have arrived, whether or not they are still open, in the order of their numbers. Those that put no
    /// more blocks into the cache than a newer one are left out, so that there are no more than numbers of blocks which a sequence
    /// can put there.
    arrived: [Vec<ArrivedEnd>; Priority::ALL.len()],
}

#[derive(Debug, Clone, Copy)]
struct ArrivedEnd {
    number: u64,
    /// Most blocks that it puts into the cache.
    longest: usize,
}

impl OpenPrompts {
    /// Leading blocks of a prompt that the open sequences whose blocks it finds may put into the cache.
    pub(crate) fn shared(&self, prompt: OpenPrompt<'_>) -> usize {
        let own = (*prompt.owner != CacheOwner::Everyone).then(|| prompt.owner.clone());
        let owners = std::iter::once(CacheOwner::Everyone).chain(own);
        let trees = owners.filter_map(|owner| self.trees.get(&(owner, prompt.adapter)));
        let shared = trees.map(|tree| tree.furthest(prompt.blocks, Node::reach));
        shared.max().unwrap_or(0)
    }

    /// Leading blocks of the prompt of an open sequence that sequences of other classes and of the same owner have put into the
    /// cache, or may put there, which have arrived after it. (In its own class they run after it.)
    pub(crate) fn shared_since(&self, prompt: OpenPrompt<'_>) -> usize {
        let Some(tree) = self.trees.get(&key(prompt)) else {
            return 0;
        };
        let (class, number) = (prompt.class, prompt.blocks.number());
        tree.furthest(prompt.blocks, |node| node.reach_since(class, number))
    }

    /// Enters the prompt of a sequence that is open from now on, and returns its number in the order of arrivals.
    pub(crate) fn enter(&mut self, prompt: OpenPrompt<'_>) -> u64 {
        self.arrivals += 1;
        let number = self.arrivals;
        let tree = self.trees.entry(key(prompt)).or_default();
        tree.root.enter(prompt.class, number);
        for hash in prompt.blocks.hashes() {
            tree.nodes.entry(*hash).or_default().enter(prompt.class, number);
        }
        if let Some(last) = tree.last_mut(prompt.blocks) {
            let end = ArrivedEnd {
                number,
                longest: prompt.blocks.longest(),
            };
            last.ends.get_or_insert_default().enter(prompt.class, end);
        }
        number
    }

    /// Removes the prompt of a sequence that has ended.
    pub(crate) fn leave(&mut self, prompt: OpenPrompt<'_>) {
        let key = key(prompt);
        let Some(tree) = self.trees.get_mut(&key) else {
            return;
        };
        tree.leave(prompt.blocks);
        if tree.root.open == 0 {
            self.trees.remove(&key);
        }
    }

    /// Nodes that questions have looked at so far, in the trees that there are.
    #[cfg(test)]
    pub(crate) fn looks(&self) -> usize {
        self.trees.values().map(|tree| tree.looks.get()).sum()
    }
}

fn key(prompt: OpenPrompt<'_>) -> TreeKey {
    (prompt.owner.clone(), prompt.adapter)
}

impl PromptTree {
    /// How many leading blocks of a prompt the sequences reach whose prompts lie on its path: each as far as the path is its
    /// own, and those that end there as far as `reach` says. The path ends where `reach` has no answer.
    fn furthest(&self, blocks: &PromptBlocks, reach: impl Fn(&Node) -> Option<usize>) -> usize {
        let hashes = blocks.hashes();
        let nodes = hashes.iter().map_while(|hash| self.nodes.get(hash));
        let path = std::iter::once(&self.root).chain(nodes);
        #[cfg(test)]
        let path = path.inspect(|_| self.looks.set(self.looks.get() + 1));
        let reaches = path
            .map_while(reach)
            .enumerate()
            .map(|(depth, reach)| depth.max(reach));
        reaches.max().unwrap_or(0).min(hashes.len())
    }

    /// The node at which a prompt ends.
    fn last_mut(&mut self, blocks: &PromptBlocks) -> Option<&mut Node> {
        match blocks.hashes().last() {
            Some(hash) => self.nodes.get_mut(hash),
            None => Some(&mut self.root),
        }
    }

    fn leave(&mut self, blocks: &PromptBlocks) {
        if let Some(ends) = self.last_mut(blocks).and_then(|last| last.ends.as_mut()) {
            ends.leave(blocks.longest());
        }
        self.root.open = self.root.open.saturating_sub(1);
        for hash in blocks.hashes() {
            if let Entry::Occupied(mut entry) = self.nodes.entry(*hash) {
                let node = entry.get_mut();
                node.open = node.open.saturating_sub(1);
                if node.open == 0 {
                    entry.remove();
                }
            }
        }
    }
}

impl Node {
    fn enter(&mut self, class: Priority, number: u64) {
        self.open += 1;
        self.newest[class.index()] = number;
    }

    /// Most blocks that open sequences whose prompts end here put into the cache; 0 where there are none.
    fn reach(&self) -> Option<usize> {
        let longest = self.ends.as_ref().and_then(|ends| ends.longest.last_key_value());
        Some(longest.map_or(0, |(longest, _)| *longest))
    }

    /// The same of sequences of other classes than `class` that have arrived after the one with this number, open or not. `None`
    /// where no prompt of such a sequence has this block.
    fn reach_since(&self, class: Priority, number: u64) -> Option<usize> {
        let others = || Priority::ALL.into_iter().filter(move |other| *other != class);
        if others().all(|other| self.newest[other.index()] <= number) {
            return None;
        }
        let ends = self.ends.as_ref();
        let longest = ends.and_then(|ends| others().map(|other| ends.longest_since(other, number)).max());
        Some(longest.unwrap_or(0))
    }
}

impl PromptEnds {
    fn enter(&mut self, class: Priority, end: ArrivedEnd) {
        *self.longest.entry(end.longest).or_default() += 1;
        let arrived = &mut self.arrived[class.index()];
        while arrived.last().is_some_and(|last| last.longest <= end.longest) {
            arrived.pop();
        }
        arrived.push(end);
    }

    fn leave(&mut self, longest: usize) {
        if let Some(count) = self.longest.get_mut(&longest) {
            *count -= 1;
            if *count == 0 {
                self.longest.remove(&longest);
            }
        }
    }

    /// Most blocks that a sequence of a class puts into the cache which has arrived after the one with this number; 0 for none.
    fn longest_since(&self, class: Priority, number: u64) -> usize {
        let arrived = &self.arrived[class.index()];
        let later = arrived.partition_point(|end| end.number <= number);
        arrived.get(later).map_or(0, |end| end.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tenant::Tenant;

    const BLOCK: usize = 2;

    fn tenant(name: &str) -> CacheOwner {
        CacheOwner::Tenant(Tenant::named(name).unwrap())
    }

    fn prompt<'a>(owner: &'a CacheOwner, class: Priority, blocks: &'a PromptBlocks) -> OpenPrompt<'a> {
        OpenPrompt {
            owner,
            adapter: None,
            class,
            blocks,
        }
    }

    fn blocks(tokens: &[u32], longest: usize) -> PromptBlocks {
        PromptBlocks::new(tokens, BLOCK, longest)
    }

    #[test]
    fn a_prompt_shares_with_its_owner_and_with_everyone_and_with_no_adapter_but_its_own() {
        let mut open = OpenPrompts::default();
        let (own, policy) = (blocks(&[1, 1, 2, 2, 3, 3], 3), blocks(&[1, 1, 4, 4], 2));
        let a = tenant("a");
        open.enter(prompt(&a, Priority::Batch, &own));
        open.enter(prompt(&CacheOwner::Everyone, Priority::Batch, &policy));
        for (owner, tokens, shared) in [
            (tenant("a"), &[1, 1, 2, 2, 9, 9][..], 2),
            (tenant("b"), &[1, 1, 2, 2, 9, 9], 1),
            (tenant("b"), &[1, 1, 4, 4, 9, 9], 2),
            (CacheOwner::Everyone, &[1, 1, 2, 2], 1),
            (tenant("a"), &[7, 7], 0),
        ] {
            let new = blocks(tokens, 3);
            let new = prompt(&owner, Priority::Urgent, &new);
            assert_eq!(open.shared(new), shared, "{owner:?} {tokens:?}");
            let adapted = OpenPrompt {
                adapter: Some(AdapterIndex(0)),
                ..new
            };
            assert_eq!(open.shared(adapted), 0);
        }
        open.leave(prompt(&a, Priority::Batch, &own));
        let new = blocks(&[1, 1, 2, 2], 2);
        assert_eq!(open.shared(prompt(&a, Priority::Urgent, &new)), 1);
        open.leave(prompt(&CacheOwner::Everyone, Priority::Batch, &policy));
        assert!(open.trees.is_empty(), "nothing is kept of what has ended");
    }

    #[test]
    fn answers_of_shorter_prompts_may_continue_as_a_prompt_does() {
        let mut open = OpenPrompts::default();
        let (long, short) = (blocks(&[1, 1, 2, 2], 3), blocks(&[1], 2));
        let a = tenant("a");
        let new = blocks(&[1, 1, 2, 2, 3, 3, 4, 4], 4);
        open.enter(prompt(&a, Priority::Batch, &short));
        assert_eq!(open.shared(prompt(&a, Priority::Batch, &new)), 2);
        open.enter(prompt(&a, Priority::Batch, &long));
        assert_eq!(open.shared(prompt(&a, Priority::Batch, &new)), 3);
        open.leave(prompt(&a, Priority::Batch, &long));
        assert_eq!(open.shared(prompt(&a, Priority::Batch, &new)), 2);
    }

    #[test]
    fn what_later_sequences_of_other_classes_share_is_still_known_when_they_have_ended() {
        let mut open = OpenPrompts::default();
        let a = tenant("a");
        let mut waiting = blocks(&[1, 1, 2, 2, 3, 3], 3);
        let later = blocks(&[1, 1], 2);
        let earlier = blocks(&[1, 1, 2, 2, 3, 3], 3);
        open.enter(prompt(&a, Priority::Urgent, &earlier));
        let number = open.enter(prompt(&a, Priority::Batch, &waiting));
        waiting.set_number(number);
        let since = |open: &OpenPrompts| open.shared_since(prompt(&a, Priority::Batch, &waiting));
        assert_eq!(since(&open), 0, "it has arrived before");
        open.enter(prompt(&a, Priority::Batch, &earlier));
        assert_eq!(since(&open), 0, "it is of the same class");
        open.enter(prompt(&a, Priority::Urgent, &later));
        assert_eq!(since(&open), 2);
        open.leave(prompt(&a, Priority::Urgent, &later));
        assert_eq!(since(&open), 2);
        open.enter(prompt(&tenant("b"), Priority::Urgent, &earlier));
        assert_eq!(since(&open), 2, "it is another tenant's");
    }
}
