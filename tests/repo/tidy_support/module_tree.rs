//! The modules of a crate, what each defines and imports, and what a path in one of them names.

use std::collections::{BTreeMap, BTreeSet};

use syn::Visibility;

/// A re-export of a re-export is followed this far; two names that re-export each other end here.
const MAX_REEXPORTS: usize = 16;

/// Where a module is declared: the index of its parent, none for the crate's root.
#[derive(Clone, Copy)]
pub struct Declaration<'a> {
    pub parent: Option<usize>,
    pub name: &'a str,
}

#[derive(Default)]
pub struct Module {
    pub file: String,
    pub parent: Option<usize>,
    /// Where `mod child;` looks for its file.
    pub folder: String,
    pub children: BTreeMap<String, usize>,
    /// Names that are defined here and are no modules.
    pub items: BTreeSet<String>,
    /// What `use` brings into scope: the name here, and the path as written.
    pub imports: BTreeMap<String, Vec<String>>,
    /// Paths of `use path::*`.
    pub globs: Vec<Vec<String>>,
    pub references: Vec<Reference>,
}

pub struct Reference {
    pub path: Vec<String>,
    pub kind: ReferenceKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    /// A path in code, or an import for the module itself.
    Use,
    /// An import that others see.
    Reexport,
    /// All of a module's names.
    Glob,
    /// All of a module's names, for others too.
    GlobReexport,
}

impl ReferenceKind {
    pub fn of_import(visibility: &Visibility, glob: bool) -> Self {
        match (matches!(visibility, Visibility::Inherited), glob) {
            (true, false) => Self::Use,
            (true, true) => Self::Glob,
            (false, false) => Self::Reexport,
            (false, true) => Self::GlobReexport,
        }
    }
}

/// What a path names.
#[derive(Clone, Copy)]
enum Named {
    Module(usize),
    /// Something else, with the module that defines it.
    Item(usize),
    /// Nothing that the sources show, with the last module on the way: a macro or generated code may define it.
    Unknown(usize),
}

#[derive(Default)]
pub struct ModuleTree {
    pub modules: Vec<Module>,
}

impl ModuleTree {
    pub fn add(&mut self, declared: Declaration<'_>, file: &str, folder: &str) -> usize {
        let index = self.modules.len();
        self.modules.push(Module {
            file: file.to_owned(),
            parent: declared.parent,
            folder: folder.to_owned(),
            ..Module::default()
        });
        if let Some(parent) = declared.parent {
            self.modules[parent]
                .children
                .insert(declared.name.to_owned(), index);
        }
        index
    }

    /// The module whose file a reference uses.
    pub fn target_of(&self, from: usize, reference: &Reference) -> Option<usize> {
        let named = self.resolve(from, &reference.path, MAX_REEXPORTS)?;
        let glob = matches!(reference.kind, ReferenceKind::Glob | ReferenceKind::GlobReexport);
        let target = match named {
            Named::Module(module) if glob => module,
            Named::Module(_) => return None,
            Named::Item(module) | Named::Unknown(module) => module,
        };
        let reexport = matches!(
            reference.kind,
            ReferenceKind::Reexport | ReferenceKind::GlobReexport
        );
        (!reexport || !self.is_below(target, from)).then_some(target)
    }

    fn is_below(&self, module: usize, ancestor: usize) -> bool {
        std::iter::successors(self.modules[module].parent, |at| self.modules[*at].parent)
            .any(|at| at == ancestor)
    }

    /// What a path in `module` names; nothing for what the crate does not define.
    fn resolve(&self, module: usize, path: &[String], reexports: usize) -> Option<Named> {
        let (mut at, mut rest, mut anchored) = (module, path, false);
        while let Some((first, after)) = rest.split_first() {
            at = match first.as_str() {
                "crate" => 0,
                "self" => at,
                "super" => self.modules[at].parent?,
                _ => break,
            };
            (rest, anchored) = (after, true);
        }
        match self.descend(at, rest, reexports) {
            None if anchored => Some(Named::Unknown(at)),
            // The name of another crate, of the language, or of a variable.
            named => named,
        }
    }

    fn descend(&self, at: usize, path: &[String], reexports: usize) -> Option<Named> {
        let Some((name, rest)) = path.split_first() else {
            return Some(Named::Module(at));
        };
        let module = &self.modules[at];
        let other = module.items.contains(name) || module.imports.contains_key(name);
        // A function may have the name of the module that it stands in: a path that ends there means the function.
        if let Some(child) = module.children.get(name)
            && !(rest.is_empty() && other)
        {
            return Some(
                self.descend(*child, rest, reexports)
                    .unwrap_or(Named::Unknown(*child)),
            );
        }
        if module.items.contains(name) {
            return Some(Named::Item(at));
        }
        let reexports = reexports.checked_sub(1)?;
        let follow = |import: &[String], rest: &[String]| {
            let path = [import, rest].concat();
            (path != [name.clone()]).then(|| self.resolve(at, &path, reexports))?
        };
        if let Some(import) = module.imports.get(name) {
            return follow(import, rest);
        }
        module
            .globs
            .iter()
            .filter_map(|glob| follow(glob, path))
            .find(|named| !matches!(named, Named::Unknown(_)))
    }
}
