//! The plan of a run: which prompts it sends, in which order, with which seeds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    dataset::{Dataset, PromptId, Strata},
    results::{PlanInfo, json_line},
    selection::{RowLimit, Selection},
    settings::Shard,
    taxonomy::{Category, Language},
};
use crate::digest::Hasher;

/// Prefix of the hashed text, so that another scheme cannot give the same seeds by accident.
const SEED_DOMAIN: &str = "babelward-item-seed-v1";

/// Names an item: one prompt in one language.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ItemKey {
    /// Id of the prompt.
    pub id: PromptId,
    /// Language of the prompt.
    pub language: Language,
}

/// One prompt to send: a line of `plan.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanItem {
    /// Id and language; unique in the plan.
    #[serde(flatten)]
    pub key: ItemKey,
    /// The prompt's category.
    pub category: Category,
    /// The prompt's text.
    pub prompt: String,
    /// What figures can be split by besides language and category.
    #[serde(flatten)]
    pub strata: Strata,
}

impl PlanItem {
    /// The sampling seed of its answer with one of the run's seeds.
    pub fn seed(&self, run_seed: u64) -> u64 {
        item_seed(run_seed, &self.key.id, self.key.language, 0)
    }
}

/// The items that a run sends. All languages of a prompt follow each other, so that a run that ends early still has whole rows
/// to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The items in sending order.
    pub items: Vec<PlanItem>,
    /// Languages of the items, in the order of tables.
    pub languages: Vec<Language>,
    /// How many rows of the set the items come from.
    pub rows: usize,
}

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The selection names a language that the set does not have.
    #[error("the set has no prompts in {0}; it has {1}")]
    LanguageMissing(&'static str, String),
    /// No row of the set is selected.
    #[error("the selection leaves no rows of the set: check the categories and the limit")]
    Empty,
}

impl Plan {
    /// The plan of the selected rows.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(dataset: &Dataset, selection: &Selection) -> Result<Self, PlanError> {
        let wanted: BTreeSet<Language> = selection.languages.iter().copied().collect();
        if let Some(missing) = wanted
            .iter()
            .find(|language| !dataset.languages.contains(language))
        {
            let known: Vec<_> = dataset.languages.iter().map(|language| language.code()).collect();
            return Err(PlanError::LanguageMissing(missing.name(), known.join(", ")));
        }
        let mut taken: BTreeMap<Category, usize> = BTreeMap::new();
        let mut rows = 0usize;
        let mut items = Vec::new();
        for row in &dataset.rows {
            if !selection.categories.is_empty() && !selection.categories.contains(&row.category) {
                continue;
            }
            let of_category = taken.entry(row.category).or_default();
            let fits = match selection.limit {
                RowLimit::All => true,
                RowLimit::First(limit) => rows < limit,
                RowLimit::PerCategory(limit) => *of_category < limit,
            };
            if !fits {
                continue;
            }
            *of_category += 1;
            rows += 1;
            let prompts = row.prompts.iter();
            for (&language, prompt) in
                prompts.filter(|(language, _)| wanted.is_empty() || wanted.contains(language))
            {
                items.push(PlanItem {
                    key: ItemKey {
                        id: row.id.clone(),
                        language,
                    },
                    category: row.category,
                    prompt: prompt.clone(),
                    strata: row.strata(language),
                });
            }
        }
        match items.is_empty() {
            true => Err(PlanError::Empty),
            false => Ok(Self::of_items(items)),
        }
    }

    /// The plan of these items. Items of one prompt are brought together behind the first of them.
    pub fn of_items(mut items: Vec<PlanItem>) -> Self {
        let languages: BTreeSet<_> = items.iter().map(|item| item.key.language).collect();
        let mut row_of: HashMap<PromptId, usize> = HashMap::new();
        for item in &items {
            let next = row_of.len();
            row_of.entry(item.key.id.clone()).or_insert(next);
        }
        items.sort_by_key(|item| row_of.get(&item.key.id).copied());
        Self {
            items,
            languages: languages.into_iter().collect(),
            rows: row_of.len(),
        }
    }

    /// The items of each row: one prompt in all of its languages.
    pub fn by_row(&self) -> impl Iterator<Item = &[PlanItem]> {
        self.items.chunk_by(|a, b| a.key.id == b.key.id)
    }

    /// The part of the plan that is a shard: every `of`-th row, from the `index`-th on.
    pub fn shard(&self, shard: Shard) -> Self {
        let own = self
            .by_row()
            .enumerate()
            .filter(|(row, _)| row % shard.of as usize + 1 == shard.index as usize);
        Self::of_items(own.flat_map(|(_, items)| items.iter().cloned()).collect())
    }

    /// The whole plan, from the plans of all its shards in their order.
    pub fn unite(shards: &[Self]) -> Self {
        let mut rows: Vec<_> = shards.iter().map(Self::by_row).collect();
        let mut items = Vec::new();
        loop {
            let before = items.len();
            for rows in &mut rows {
                items.extend(rows.next().into_iter().flatten().cloned());
            }
            if items.len() == before {
                return Self::of_items(items);
            }
        }
    }
}

impl Plan {
    /// The lines of `plan.jsonl`, each with its line break.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        Self::lines_of(self.items.iter())
    }

    /// Lines of `plan.jsonl` for some items.
    pub fn lines_of<'a>(items: impl Iterator<Item = &'a PlanItem>) -> impl Iterator<Item = String> {
        items.map(|item| json_line(item) + "\n")
    }

    /// What `run.json` says of the plan.
    pub fn info(&self) -> PlanInfo {
        let mut hasher = Hasher::default();
        for line in self.lines() {
            hasher.update(line.as_bytes());
        }
        PlanInfo {
            digest: hasher.finish(),
            items: self.items.len(),
            rows: self.rows,
        }
    }
}

/// The sampling seed of an item: the first 53 bits of
/// SHA-256(`babelward-item-seed-v1` NUL run seed NUL prompt id NUL language code NUL sample), numbers in
/// decimal. It depends on nothing else in the run, so any item can be computed again alone; 53 bits survive
/// every JSON reader.
pub fn item_seed(run_seed: u64, id: &PromptId, language: Language, sample: u32) -> u64 {
    let text = format!("{SEED_DOMAIN}\0{run_seed}\0{id}\0{}\0{sample}", language.code());
    let hash = Sha256::digest(text);
    let first: [u8; 8] = std::array::from_fn(|index| hash[index]);
    u64::from_be_bytes(first) >> 11
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::DEMO_PROMPTS;

    fn demo() -> Dataset {
        Dataset::parse("demo", DEMO_PROMPTS).expect("valid")
    }

    fn plan(languages: &[Language], categories: &[&str], limit: RowLimit) -> Result<Plan, PlanError> {
        let selection = Selection {
            languages: languages.to_vec(),
            categories: categories
                .iter()
                .map(|key| Category::parse(key).expect("known"))
                .collect(),
            limit,
        };
        Plan::new(&demo(), &selection)
    }

    /// `hashlib.sha256(b"babelward-item-seed-v1\0" b"20\0" b"17\0" b"de\0" b"0")`, first 8 bytes, >> 11.
    #[test]
    fn seeds_are_the_documented_hash() {
        assert_eq!(
            item_seed(20, &PromptId::Number(17), Language::De, 0),
            4_225_046_191_654_125
        );
    }

    #[test]
    fn seeds_differ_by_everything() {
        let number = |n| PromptId::Number(n);
        let seeds = BTreeSet::from([
            item_seed(1, &number(1), Language::En, 0),
            item_seed(2, &number(1), Language::En, 0),
            item_seed(1, &number(2), Language::En, 0),
            item_seed(1, &number(1), Language::De, 0),
            item_seed(1, &number(1), Language::En, 1),
        ]);
        assert_eq!(seeds.len(), 5);
        assert!(seeds.iter().all(|seed| *seed < 1 << 53));
    }

    #[test]
    fn one_row_per_category_is_160_prompts() {
        let plan = plan(&[], &[], RowLimit::PerCategory(1)).expect("a plan");
        assert_eq!((plan.items.len(), plan.rows, plan.languages.len()), (160, 32, 5));
        let ids: BTreeSet<_> = plan.items.iter().map(|item| &item.key).collect();
        assert_eq!(ids.len(), 160);
        let first: Vec<_> = plan
            .items
            .iter()
            .take(5)
            .map(|item| (item.key.id.to_string(), item.key.language.code()))
            .collect();
        let of_row_1 = ["en", "de", "es", "fr", "it"].map(|code| ("1".to_owned(), code));
        assert_eq!(first, of_row_1);
    }

    #[test]
    fn selections_narrow_the_plan() {
        let some = plan(
            &[Language::It, Language::En],
            &["hate_lgbtq+", "crime_tax"],
            RowLimit::All,
        )
        .expect("a plan");
        assert_eq!((some.items.len(), some.rows), (8, 4));
        assert_eq!(some.languages, [Language::En, Language::It]);
        assert_eq!(plan(&[], &[], RowLimit::First(3)).expect("a plan").rows, 3);
        assert_eq!(plan(&[], &[], RowLimit::First(0)), Err(PlanError::Empty));
    }

    #[test]
    fn shards_are_disjoint_and_make_the_whole_plan() {
        let whole = plan(&[], &[], RowLimit::First(17)).expect("a plan");
        for of in [1, 2, 5, 17, 20] {
            let shards: Vec<_> = (1..=of).map(|index| whole.shard(Shard { index, of })).collect();
            assert_eq!(
                shards.iter().map(|shard| shard.items.len()).sum::<usize>(),
                whole.items.len()
            );
            assert_eq!(Plan::unite(&shards), whole, "{of} shards");
        }
    }

    /// All English prompts first, then all German ones, as long files often are.
    #[test]
    fn translations_that_stand_apart_in_the_file_are_one_row() {
        let line = |language: &str, id: usize| {
            let prompt = format!("{language} {id}");
            serde_json::json!({"id": id, "language": language, "category": "crime_tax", "prompt": prompt})
                .to_string()
        };
        let lines: Vec<_> = ["en", "de"]
            .iter()
            .flat_map(|language| (0..5).map(|id| line(language, id)))
            .collect();
        let apart = Dataset::parse("long", &lines.join("\n")).expect("valid");
        let whole = Selection {
            languages: Vec::new(),
            categories: Vec::new(),
            limit: RowLimit::All,
        };
        let plan = Plan::new(&apart, &whole).expect("a plan");
        assert_eq!((plan.rows, plan.items.len()), (5, 10));
        let mut items = plan.items.clone();
        items.sort_by_key(|item| item.key.language);
        assert_eq!(Plan::of_items(items), plan);
        let shards = [1, 2].map(|index| plan.shard(Shard { index, of: 2 }));
        assert_eq!(shards.each_ref().map(|shard| shard.rows), [3, 2]);
        assert_eq!(Plan::unite(&shards), plan);
    }

    #[test]
    fn a_language_that_the_set_has_not_is_named() {
        let english = Dataset::parse("en", r#"{"id":1,"category":"crime_tax","en":"a"}"#).expect("valid");
        let selection = Selection {
            languages: vec![Language::De],
            categories: Vec::new(),
            limit: RowLimit::All,
        };
        let error = Plan::new(&english, &selection).expect_err("no German");
        assert_eq!(error.to_string(), "the set has no prompts in German; it has en");
    }
}
