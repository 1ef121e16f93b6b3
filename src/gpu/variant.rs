// SPDX-License-Identifier: MPL-2.0

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{Environment, UndefinedBehavior, Value, syntax::SyntaxConfig};

/// The values that fill in the template of a kernel.
///
/// WGSL has neither conditional compilation nor loops that are sure to be unrolled. So the kernels are templates: lines
/// that begin with `#` are statements (`# if`, `# for`), and `{{ }}` holds expressions, in the syntax of Jinja.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Variant {
    extensions: BTreeSet<&'static str>,
    types: BTreeMap<&'static str, &'static str>,
    numbers: BTreeMap<&'static str, u32>,
    flags: BTreeSet<&'static str>,
}

impl Variant {
    /// Enables an extension of WGSL.
    pub(super) fn extension(mut self, name: &'static str) -> Self {
        self.extensions.insert(name);
        self
    }

    /// Gives a type a name.
    pub(super) fn with_type(mut self, name: &'static str, aliased: &'static str) -> Self {
        self.types.insert(name, aliased);
        if aliased.contains("f16") { self.extension("f16") } else { self }
    }

    /// Sets a number, which the kernel also has as a constant of type `u32`.
    pub(super) fn number(mut self, name: &'static str, value: u32) -> Self {
        self.numbers.insert(name, value);
        self
    }

    /// Sets what `# if` asks for.
    pub(super) fn flag(mut self, name: &'static str, is_set: bool) -> Self {
        if is_set {
            self.flags.insert(name);
        }
        self
    }

    /// The kernel in WGSL.
    ///
    /// # Errors
    ///
    /// Only if the template has a fault.
    pub(super) fn fill(&self, template: &str) -> Result<String, minijinja::Error> {
        let extensions = self.extensions.iter().map(|name| format!("enable {name};\n"));
        let types = self.types.iter().map(|(name, aliased)| format!("alias {name} = {aliased};\n"));
        let numbers = self.numbers.iter().map(|(name, value)| format!("const {name}: u32 = {value}u;\n"));
        let prologue: String = extensions.chain(types).chain(numbers).collect();
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().line_statement_prefix("#").build()?);
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        let numbers = self.numbers.iter().map(|(&name, &value)| (name, Value::from(value)));
        let flags = self.flags.iter().map(|&name| (name, Value::from(true)));
        Ok(prologue + &environment.render_str(template, Value::from_pairs(numbers.chain(flags)))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_types_numbers_and_flags() {
        let template = "\
# for i in range(COUNT)
let v{{ i }} = Stored(a[{{ 2 * i + 1 }}]);
# endfor
# if RELU
relu();
# else
plain();
# endif
";
        let variant = Variant::default().number("COUNT", 2).with_type("Stored", "vec4<f16>").flag("RELU", false);
        let expected = "\
enable f16;
alias Stored = vec4<f16>;
const COUNT: u32 = 2u;
let v0 = Stored(a[1]);
let v1 = Stored(a[3]);
plain();
";
        assert_eq!(variant.fill(template).unwrap(), expected);
        assert!(variant.flag("RELU", true).fill(template).unwrap().contains("relu();"));
        assert!(Variant::default().fill("{{ MISSING }}").is_err());
    }
}
