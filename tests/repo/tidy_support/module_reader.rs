//! Reads modules out of sources, without what is compiled for tests only: a test may use anything.

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Meta, UseTree, Visibility};

use super::module_tree::{Declaration, Module, ModuleTree, Reference, ReferenceKind};

/// Reads the crate whose root is `src/lib.rs` out of `(file name, text)` pairs.
pub fn read(sources: &[(String, String)]) -> ModuleTree {
    let mut tree = ModuleTree::default();
    read_file(
        &mut tree,
        sources,
        "src/lib.rs",
        Declaration {
            parent: None,
            name: "",
        },
    );
    tree
}

fn read_file(tree: &mut ModuleTree, sources: &[(String, String)], file: &str, declared: Declaration<'_>) {
    let Some((_, text)) = sources.iter().find(|(name, _)| name == file) else {
        panic!("{file}: declared as a module and not there");
    };
    let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    if parsed.attrs.iter().any(for_tests) {
        return;
    }
    let base = file.trim_end_matches(".rs");
    let folder = ["/mod", "/lib"]
        .iter()
        .find_map(|root| base.strip_suffix(root))
        .unwrap_or(base);
    let module = tree.add(declared, file, folder);
    let mut reader = Reader {
        tree,
        sources,
        module,
    };
    reader.visit_file(&parsed);
}

/// Whether an item is compiled for tests only.
fn for_tests(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return attribute.path().is_ident("test");
    };
    list.path.is_ident("cfg") && {
        let condition: Vec<_> = list
            .tokens
            .clone()
            .into_iter()
            .map(|token| token.to_string())
            .collect();
        match condition.as_slice() {
            [only] => only == "test",
            [combined, of] => matches!(combined.as_str(), "all" | "any") && of.contains("test"),
            _ => false,
        }
    }
}

struct Reader<'a> {
    tree: &'a mut ModuleTree,
    sources: &'a [(String, String)],
    module: usize,
}

impl Reader<'_> {
    fn here(&mut self) -> &mut Module {
        &mut self.tree.modules[self.module]
    }

    fn refer(&mut self, path: Vec<String>, kind: ReferenceKind) {
        self.here().references.push(Reference { path, kind });
    }

    fn define(&mut self, name: &Ident) {
        self.here().items.insert(name.to_string());
    }

    fn import(&mut self, tree: &UseTree, prefix: &[String], visibility: &Visibility) {
        let with = |name: &Ident| {
            let mut path = prefix.to_vec();
            if name != "self" || path.is_empty() {
                path.push(name.to_string());
            }
            path
        };
        let (alias, path) = match tree {
            UseTree::Path(below) => return self.import(&below.tree, &with(&below.ident), visibility),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix, visibility);
                }
                return;
            }
            UseTree::Glob(_) => {
                self.here().globs.push(prefix.to_vec());
                return self.refer(prefix.to_vec(), ReferenceKind::of_import(visibility, true));
            }
            UseTree::Name(name) => (with(&name.ident).last().cloned(), with(&name.ident)),
            UseTree::Rename(renamed) => (Some(renamed.rename.to_string()), with(&renamed.ident)),
        };
        if let Some(alias) = alias {
            self.here().imports.insert(alias, path.clone());
        }
        self.refer(path, ReferenceKind::of_import(visibility, false));
    }

    /// Paths in the arguments of a macro or an attribute, which are tokens only.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut after_dot = false;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons < 2 {
                        self.finish(std::mem::take(&mut path));
                    }
                    if !after_dot {
                        path.push(name.to_string());
                    }
                    (colons, after_dot) = (0, false);
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.finish(std::mem::take(&mut path));
                    after_dot = matches!(&other, TokenTree::Punct(mark) if mark.as_char() == '.');
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.scan(group.stream());
                    }
                }
            }
        }
        self.finish(path);
    }

    fn finish(&mut self, path: Vec<String>) {
        if !path.is_empty() {
            self.refer(path, ReferenceKind::Use);
        }
    }

    fn module_file(&self, item: &syn::ItemMod) -> String {
        let module = &self.tree.modules[self.module];
        let named = item.attrs.iter().find_map(|attribute| match &attribute.meta {
            Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
                syn::Expr::Lit(syn::ExprLit {
                    lit: syn::Lit::Str(file),
                    ..
                }) => Some(file.value()),
                _ => None,
            },
            _ => None,
        });
        if let Some(file) = named {
            let folder = module.file.rsplit_once('/').map_or("", |(folder, _)| folder);
            return format!("{folder}/{file}");
        }
        let flat = format!("{}/{}.rs", module.folder, item.ident);
        if self.sources.iter().any(|(name, _)| *name == flat) {
            return flat;
        }
        format!("{}/{}/mod.rs", module.folder, item.ident)
    }
}

/// Visits an item as usual unless it is compiled for tests only.
macro_rules! outside_of_tests {
    ($($method:ident: $item:ident),* $(,)?) => {
        $(fn $method(&mut self, item: &syn::$item) {
            if !item.attrs.iter().any(for_tests) {
                visit::$method(self, item);
            }
        })*
    };
}

/// The same for items that define a name.
macro_rules! defining {
    ($($method:ident: $item:ident),* $(,)?) => {
        $(fn $method(&mut self, item: &syn::$item) {
            if !item.attrs.iter().any(for_tests) {
                self.define(&item.ident);
                visit::$method(self, item);
            }
        })*
    };
}

impl Visit<'_> for Reader<'_> {
    /// How far an item is seen (`pub(in a::b)`) names a module and uses nothing of it.
    fn visit_vis_restricted(&mut self, _: &syn::VisRestricted) {}

    defining! {
        visit_item_const: ItemConst,
        visit_item_enum: ItemEnum,
        visit_item_static: ItemStatic,
        visit_item_struct: ItemStruct,
        visit_item_trait: ItemTrait,
        visit_item_trait_alias: ItemTraitAlias,
        visit_item_type: ItemType,
        visit_item_union: ItemUnion,
    }

    outside_of_tests! {
        visit_expr_block: ExprBlock,
        visit_field: Field,
        visit_impl_item_const: ImplItemConst,
        visit_impl_item_fn: ImplItemFn,
        visit_impl_item_type: ImplItemType,
        visit_item_impl: ItemImpl,
        visit_local: Local,
        visit_trait_item_fn: TraitItemFn,
        visit_variant: Variant,
    }

    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        if !item.attrs.iter().any(for_tests) {
            self.define(&item.sig.ident);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_macro(&mut self, item: &syn::ItemMacro) {
        if !item.attrs.iter().any(for_tests) {
            if let Some(name) = &item.ident {
                self.define(name);
            }
            visit::visit_item_macro(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        if item.attrs.iter().any(for_tests) {
            return;
        }
        let name = item.ident.to_string();
        let declared = Declaration {
            parent: Some(self.module),
            name: &name,
        };
        let Some((_, items)) = &item.content else {
            let file = self.module_file(item);
            return read_file(self.tree, self.sources, &file, declared);
        };
        let (file, folder) = (self.here().file.clone(), format!("{}/{name}", self.here().folder));
        let inner = self.tree.add(declared, &file, &folder);
        let outer = std::mem::replace(&mut self.module, inner);
        for item in items {
            self.visit_item(item);
        }
        self.module = outer;
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        if item.leading_colon.is_none() && !item.attrs.iter().any(for_tests) {
            self.import(&item.tree, &[], &item.vis);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        if path.leading_colon.is_none() {
            let segments = path.segments.iter().map(|segment| segment.ident.to_string());
            self.refer(segments.collect(), ReferenceKind::Use);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.visit_path(&call.path);
        self.scan(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
    }
}
