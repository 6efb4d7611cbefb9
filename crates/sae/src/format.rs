//! The forms SAEs are stored in, each in a file of its own.

use std::fmt;

use directrix_model::Folder;

use crate::sae::Parameters;
use crate::{Error, Result, Sae, Site};

pub(crate) mod saelens;

/// A form that a folder with an SAE can have.
struct Format {
    /// Whose form it is.
    name: &'static str,
    /// A file that only folders of this form hold.
    mark: &'static str,
    read: fn(&Folder) -> Result<(Site, Parameters)>,
}

const FORMATS: [Format; 1] = [Format { name: "SAELens", mark: saelens::CONFIG, read: saelens::read }];

impl Sae {
    /// Loads the SAE that a folder holds. That it fits a model is a [check](Sae::fit) of its own.
    ///
    /// # Errors
    /// If the folder is of no known form, a file is missing or damaged, the architecture or a normalisation is not supported,
    /// or a tensor has another shape or is not finite.
    pub fn load(folder: &Folder) -> Result<Sae> {
        let found = folder.names()?;
        let Some(format) = FORMATS.iter().find(|format| found.iter().any(|name| name == format.mark)) else {
            let known = FORMATS.map(|format| format.to_string()).join(", ");
            return Err(Error::Format { folder: folder.to_string(), known, found: found.join(", ") });
        };
        let (site, parameters) = (format.read)(folder)?;
        Sae::new(folder.to_string(), site, parameters)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.mark, self.name)
    }
}
