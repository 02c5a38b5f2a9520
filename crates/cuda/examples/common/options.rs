//! Words of a command line: `--name value`, and what stands alone.

use std::collections::BTreeMap;
use std::str::FromStr;

/// A command line.
pub struct Options {
    /// What stands alone, in order.
    pub words: Vec<String>,
    named: BTreeMap<String, String>,
}

impl Options {
    /// Reads a command line, in which these names may occur.
    pub fn read(arguments: impl IntoIterator<Item = String>, names: &[&str]) -> Result<Options, String> {
        let (mut words, mut named) = (Vec::new(), BTreeMap::new());
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix("--") {
                Some(name) if names.contains(&name) => {
                    let value = arguments.next().ok_or_else(|| format!("--{name} needs a value"))?;
                    named.insert(name.to_owned(), value);
                }
                Some(_) => return Err(format!("{argument} is not one of --{}", names.join(", --"))),
                None => words.push(argument),
            }
        }
        Ok(Options { words, named })
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    /// The value of a name, or this one.
    pub fn parse<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse().map_err(|_| format!("--{name} {text}: that is no value for it"))
    }

    /// The values of a name, which commas separate.
    pub fn list<T: FromStr>(&self, name: &str, default: &str) -> Result<Vec<T>, String> {
        let text = self.get(name).unwrap_or(default);
        let each = text.split(',').filter(|word| !word.is_empty());
        each.map(|word| word.parse().map_err(|_| format!("--{name}: {word} is no value for it"))).collect()
    }
}
