//! The files of a prompt set as they were read, with all problems in them.

use super::{
    assemble::{Assembled, Assembler},
    problem::DatasetError,
    source::{ReadOptions, Source, file_name},
};
use crate::{
    bench::table::{self, TableInfo},
    digest,
};

/// A prompt set as it was read, with all problems in it.
pub(super) struct Files {
    pub(super) name: String,
    pub(super) digest: String,
    /// Name and format of each file.
    pub(super) tables: Vec<(String, TableInfo)>,
    pub(super) assembled: Assembled,
}

impl Files {
    pub(super) fn read(source: &Source, options: ReadOptions) -> Result<Self, DatasetError> {
        let names: Vec<_> = source.files.iter().map(|path| file_name(path)).collect();
        let mut assembler = Assembler::new(&names, options);
        let mut tables = Vec::new();
        let mut digests = Vec::new();
        for (index, (path, name)) in source.files.iter().zip(&names).enumerate() {
            let info = table::read(path, &mut |place, row| assembler.row(index, place, row))?;
            tables.push((name.clone(), info));
            let digest = digest::of_file(path).map_err(|source| table::TableError::Io {
                path: path.clone(),
                source,
            })?;
            digests.push(digest);
        }
        Ok(Self {
            name: source.name.clone(),
            digest: match digests.as_slice() {
                [only] => only.clone(),
                several => digest::of_bytes(several.join("\n")),
            },
            assembled: assembler.finish(),
            tables,
        })
    }

    pub(super) fn parse(name: &str, text: &str, options: ReadOptions) -> Self {
        let names = [name.to_owned()];
        let mut assembler = Assembler::new(&names, options);
        table::read_json_lines(text, &mut |place, row| assembler.row(0, place, row));
        Self {
            name: name.to_owned(),
            digest: digest::of_bytes(text),
            tables: Vec::new(),
            assembled: assembler.finish(),
        }
    }
}
