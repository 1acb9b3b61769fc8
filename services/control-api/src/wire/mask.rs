//! Field masks of updates (AIP-134): which fields of a resource a request changes.

use prost_types::FieldMask;

use crate::Error;

/// The fields that an update changes.
#[derive(Debug)]
pub(crate) struct Mask<'a> {
    paths: Option<&'a [String]>,
    all: bool,
}

impl<'a> Mask<'a> {
    /// Reads a request's mask; `allowed` are the fields that can be changed. A path of a parent
    /// (`wireguard`) stands for every field below it.
    ///
    /// # Errors
    /// A path that names no field that can be changed.
    pub(crate) fn read(mask: Option<&'a FieldMask>, allowed: &[&str]) -> Result<Self, Error> {
        let paths = mask.map_or(&[] as &[String], |mask| &mask.paths);
        for path in paths {
            let known = path == "*"
                || allowed
                    .iter()
                    .any(|name| name == path || is_below(name, path));
            if !known {
                return Err(Error::field(
                    "update_mask",
                    format!(
                        "{path:?} cannot be changed; these can: {}",
                        allowed.join(", ")
                    ),
                ));
            }
        }
        Ok(Self {
            paths: (!paths.is_empty()).then_some(paths),
            all: paths.iter().any(|path| path == "*"),
        })
    }

    /// `value`, where the mask names the field, or where it is empty and the field is set.
    pub(crate) fn take<T>(&self, field: &str, is_set: bool, value: T) -> Option<T> {
        let named = match self.paths {
            None => is_set,
            Some(paths) => {
                self.all
                    || paths
                        .iter()
                        .any(|path| path == field || is_below(field, path))
            }
        };
        named.then_some(value)
    }
}

fn is_below(field: &str, parent: &str) -> bool {
    field
        .strip_prefix(parent)
        .is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] = &["note", "wireguard.port", "wireguard.mtu"];

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask {
            paths: paths.iter().map(|&p| p.to_owned()).collect(),
        }
    }

    #[test]
    fn an_empty_mask_changes_what_is_set() {
        let mask = Mask::read(None, ALLOWED).unwrap();
        assert_eq!(mask.take("note", true, 1), Some(1));
        assert_eq!(mask.take("note", false, 1), None);
    }

    #[test]
    fn a_named_field_is_changed_also_to_its_default() {
        let mask = mask(&["note"]);
        let mask = Mask::read(Some(&mask), ALLOWED).unwrap();
        assert_eq!(mask.take("note", false, ""), Some(""));
        assert_eq!(mask.take("wireguard.port", true, ""), None);
    }

    #[test]
    fn a_parent_and_the_star_stand_for_all_below() {
        for path in ["wireguard", "*"] {
            let mask = mask(&[path]);
            let mask = Mask::read(Some(&mask), ALLOWED).unwrap();
            assert!(mask.take("wireguard.mtu", false, ()).is_some());
        }
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        for path in ["id", "wire", "note.x", ""] {
            let mask = mask(&[path]);
            assert!(Mask::read(Some(&mask), ALLOWED).is_err(), "{path}");
        }
    }
}
