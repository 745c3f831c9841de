//! One model for every `key=value` option of the command line, in QEMU's syntax.
//!
//! ```text
//! -smp 4,sockets=2            the first value may stand without its key (the implied key)
//! -chardev file,id=a,path=x,,y    a comma in a value is doubled
//! -netdev user,id=n,hostfwd.0=…   dotted keys are members of objects and lists
//! -device {"driver":"…"}      the same as a JSON object
//! ```
//!
//! Text becomes [`Options`], an ordered list of dotted keys with text values, whichever form it came in. A struct
//! declared with [`options!`](crate::options!) is filled from it with typed fields; a key that is left over is refused by name, with the
//! nearest known key as a hint. The same declaration prints the option's `help`.
//!
//! Nothing here panics, recurses without bound, or allocates more than a small multiple of the text's length.

mod error;
mod getopt;
mod json;
mod schema;
mod suggest;
mod syntax;
mod value;

pub use error::OptionError;
pub use getopt::{GetoptError, LongOption, Parsed, getopt};
pub use schema::{FieldDoc, FromOptions, Nested, OptionField};
pub use suggest::closest;
pub use syntax::{Entry, Options};
pub use value::{MebiSize, OnOffAuto, OptionValue, Size, parse_integer, parse_size};
