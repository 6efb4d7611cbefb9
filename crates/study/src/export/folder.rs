//! The folder that an export is written to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use directrix_corpus::durable::{self, beside, finish_replacing, is_begun, place_of, remove_folder, replace_folder};
use serde_json::Value;

use super::written;
use crate::{Error, Result};

/// What the folder holds; it tells an export from anything else, and one form from another.
const ABOUT: &str = "export.json";

/// An export that is being made beside its place, in `OUT.partial`; it stands there when it is whole. Dropped before
/// [`finish`](Export::finish), it leaves nothing.
#[derive(Debug)]
pub struct Export {
    partial: PathBuf,
    out: PathBuf,
}

impl Export {
    /// Begins an export in `out`, of which the caller has the [lock](durable::Lock). `about` says what it is of, and by `form` in
    /// which form.
    ///
    /// # Errors
    /// If `out` holds anything but an export in the same form, or nothing can be written beside it.
    pub fn begin(out: &Path, about: &Value) -> Result<Export> {
        let (partial, out) = (beside(out, ".partial")?, place_of(out)?);
        finish_replacing(None, &out)?;
        check(&out, Some(&about["form"]))?;
        check(&partial, None)?;
        remove_folder(&partial)?;
        let export = Export { partial, out };
        let bytes = serde_json::to_vec_pretty(about).map_err(|error| written(&export.out, error.into()))?;
        durable::write(&export.path().join(ABOUT), &bytes)?;
        Ok(export)
    }

    /// Where its files are written.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// If it cannot be renamed; an earlier export is then still there.
    pub fn finish(self) -> Result<()> {
        Ok(replace_folder(&self.partial, &self.out)?)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // After `finish` nothing is there; and what cannot be removed, the next export removes.
        drop(remove_folder(&self.partial));
    }
}

/// That a folder is not there, is empty or holds an export, in this form where one is named.
fn check(folder: &Path, form: Option<&Value>) -> Result<()> {
    let occupied = |problem: String| Err(Error::Occupied { path: folder.into(), problem });
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return occupied(error.to_string()),
        Ok(_) => {}
    }
    let about = fs::read(folder.join(ABOUT)).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match (about.map(|mut about| about["form"].take()), form) {
        (Some(there), Some(form)) if there != *form => occupied(format!("it holds an export as {there}")),
        (None, _) if !is_begun(folder, ABOUT) => occupied("it holds files that are no export".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn export(out: &Path, form: &str, content: &str) -> Result<()> {
        let export = Export::begin(out, &json!({ "form": form }))?;
        fs::write(export.path().join(content), content).unwrap();
        export.finish()
    }

    #[test]
    fn an_export_takes_the_place_of_one_in_the_same_form_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        export(&out, "a", "old").unwrap();
        export(&out, "a", "new").unwrap();
        assert!(!out.join("old").exists() && out.join("new").exists());
        let refused = export(&out, "b", "x").unwrap_err().to_string();
        assert!(refused.contains("it holds an export as \"a\""), "{refused}");

        let own = folder.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("thesis.tex"), "").unwrap();
        assert!(export(&own, "a", "x").unwrap_err().to_string().contains("files that are no export"));
        assert!(own.join("thesis.tex").exists());
        assert!(export(&own.join("thesis.tex"), "a", "x").is_err());
    }

    #[test]
    fn what_a_killed_export_left_is_removed_and_the_old_one_stays_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        export(&out, "a", "old").unwrap();
        let killed = Export::begin(&out, &json!({ "form": "a" })).unwrap();
        // As it was before its first file was whole.
        fs::rename(killed.path().join(ABOUT), killed.path().join(".export.json.7-0.partial")).unwrap();
        std::mem::forget(killed);
        assert!(out.join("old").exists() && folder.path().join("out.partial").exists());
        drop(Export::begin(&out, &json!({ "form": "a" })).unwrap());
        assert!(out.join("old").exists());
        export(&out, "a", "new").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
