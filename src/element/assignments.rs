// SPDX-License-Identifier: MPL-2.0

//! Properties as a command line sets them.

use std::{fmt::Write, ops::RangeInclusive};

use gst::{
    glib::{self, EnumClass, ParamFlags, ParamSpec},
    prelude::*,
};

/// An assignment that cannot be made. The message ends with a list of all properties.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssignmentError {
    /// A text without an equals sign.
    #[error("\"{text}\" is not of the form property=value\n\n{properties}")]
    Form {
        /// The text.
        text: String,
        /// The list of properties.
        properties: String,
    },

    /// A property that the element does not have, or that is read only.
    #[error("there is no property \"{name}\"\n\n{properties}")]
    Unknown {
        /// The name as it was given.
        name: String,
        /// The list of properties.
        properties: String,
    },

    /// A value that the property does not take.
    #[error("{name} cannot be \"{value}\", it is {expected}\n\n{properties}")]
    Value {
        /// The name of the property.
        name: String,
        /// The value as it was given.
        value: String,
        /// Which values it takes.
        expected: String,
        /// The list of properties.
        properties: String,
    },
}

/// Sets properties of an element from texts of the form `property=value`, as in `iterations=5`.
///
/// # Errors
///
/// For the first text that cannot be used. Those before it are set.
pub fn set_properties(element: &gst::Element, assignments: &[String]) -> Result<(), AssignmentError> {
    assignments.iter().try_for_each(|assignment| set_property(element, assignment))
}

fn set_property(element: &gst::Element, assignment: &str) -> Result<(), AssignmentError> {
    let (name, text) = assignment
        .split_once('=')
        .ok_or_else(|| AssignmentError::Form { text: assignment.to_owned(), properties: list(element) })?;
    let property = settable(element)
        .find(|property| property.name() == name)
        .ok_or_else(|| AssignmentError::Unknown { name: name.to_owned(), properties: list(element) })?;
    let value = glib::Value::deserialize(text, property.value_type())
        .ok()
        // GObject would silently clamp a number that is out of range.
        .filter(|value| is_in_range(&property, text, value))
        .ok_or_else(|| AssignmentError::Value {
            name: name.to_owned(),
            value: text.to_owned(),
            expected: values(&property),
            properties: list(element),
        })?;
    element.set_property_from_value(name, &value);
    Ok(())
}

/// The element's own properties, without those of its base classes.
fn settable(element: &gst::Element) -> impl Iterator<Item = ParamSpec> {
    let element_type = element.type_();
    element.list_properties().into_iter().filter(move |property| {
        property.owner_type() == element_type && property.flags().contains(ParamFlags::WRITABLE)
    })
}

fn list(element: &gst::Element) -> String {
    let mut list = "The properties are".to_owned();
    for property in settable(element) {
        let default = property.default_value();
        // Serialized, a string would be quoted.
        let default = match default.get::<Option<String>>() {
            Ok(text) => text.unwrap_or_default(),
            Err(_) => default.serialize().unwrap_or_default().into(),
        };
        // Writing into a String cannot fail.
        let _ = write!(list, "\n  {:17} {} [{default}]", property.name(), values(&property));
    }
    list
}

/// Describes the values that a property takes.
fn values(property: &ParamSpec) -> String {
    let value_type = property.value_type();
    if let Some(range) = whole_numbers(property) {
        format!("a whole number from {} to {}", range.start(), range.end())
    } else if let Some(range) = numbers(property) {
        format!("a number from {} to {}", range.start(), range.end())
    } else if let Some(class) = EnumClass::with_type(value_type) {
        let nicks: Vec<_> = class.values().iter().map(glib::EnumValue::nick).collect();
        format!("one of {}", nicks.join(", "))
    } else if value_type == glib::Type::BOOL {
        "true or false".to_owned()
    } else {
        "a text".to_owned()
    }
}

fn whole_numbers(property: &ParamSpec) -> Option<RangeInclusive<i128>> {
    if let Some(property) = property.downcast_ref::<glib::ParamSpecUInt>() {
        Some(property.minimum().into()..=property.maximum().into())
    } else if let Some(property) = property.downcast_ref::<glib::ParamSpecInt>() {
        Some(property.minimum().into()..=property.maximum().into())
    } else if let Some(property) = property.downcast_ref::<glib::ParamSpecInt64>() {
        Some(property.minimum().into()..=property.maximum().into())
    } else {
        let property = property.downcast_ref::<glib::ParamSpecUInt64>()?;
        Some(property.minimum().into()..=property.maximum().into())
    }
}

fn numbers(property: &ParamSpec) -> Option<RangeInclusive<f64>> {
    let property = property.downcast_ref::<glib::ParamSpecDouble>()?;
    Some(property.minimum()..=property.maximum())
}

fn is_in_range(property: &ParamSpec, text: &str, value: &glib::Value) -> bool {
    // From the text, as the value of an unsigned property may come from a negative number.
    let is_whole = |range: RangeInclusive<i128>| text.parse().is_ok_and(|number| range.contains(&number));
    let is_number = |range: RangeInclusive<f64>| value.get().is_ok_and(|number: f64| range.contains(&number));
    whole_numbers(property).is_none_or(is_whole) && numbers(property).is_none_or(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element() -> gst::Element {
        gst::init().unwrap();
        glib::Object::new::<crate::element::NeuralStyle>().upcast()
    }

    #[test]
    fn every_kind_of_property_is_set() {
        let element = element();
        let assignments = [
            "iterations=5",
            "working-size=-1",
            "frame-budget=20000000",
            "memory-limit=18446744073709551615",
            "strength=.5",
            "style=a=b, c.png",
            "pooling=average",
            "post-messages=true",
        ];
        set_properties(&element, &assignments.map(str::to_owned)).unwrap();
        assert_eq!(element.property::<u32>("iterations"), 5);
        assert_eq!(element.property::<i32>("working-size"), -1);
        assert_eq!(element.property::<i64>("frame-budget"), 20_000_000);
        assert_eq!(element.property::<u64>("memory-limit"), u64::MAX);
        assert_eq!(element.property::<f64>("strength"), 0.5);
        assert_eq!(element.property::<String>("style"), "a=b, c.png");
        assert_eq!(element.property::<crate::element::Pooling>("pooling"), crate::element::Pooling::Average);
        assert!(element.property::<bool>("post-messages"));
    }

    #[test]
    fn what_cannot_be_set_is_named_with_what_can() {
        let element = element();
        for (assignment, reason) in [
            ("iterations", "\"iterations\" is not of the form property=value"),
            ("speed=3", "there is no property \"speed\""),
            ("stats=x", "there is no property \"stats\""),
            ("name=x", "there is no property \"name\""),
            ("iterations=0", "iterations cannot be \"0\", it is a whole number from 1 to 10000"),
            ("iterations=many", "iterations cannot be \"many\", it is a whole number from 1 to 10000"),
            ("memory-limit=-1", "memory-limit cannot be \"-1\", it is a whole number from 0 to 18446744073709551615"),
            ("strength=1.5", "strength cannot be \"1.5\", it is a number from 0 to 1"),
            ("pooling=min", "pooling cannot be \"min\", it is one of max, average"),
            ("post-messages=2x", "post-messages cannot be \"2x\", it is true or false"),
        ] {
            let message = set_properties(&element, &[assignment.to_owned()]).unwrap_err().to_string();
            let (first, list) = message.split_once("\n\n").unwrap();
            assert_eq!(first, reason);
            assert!(list.contains("\n  style             a text [nocturne]\n"), "{list}");
            assert!(list.contains("\n  strength          a number from 0 to 1 [1]\n"), "{list}");
        }
        assert_eq!(element.property::<u32>("iterations"), 3);
    }
}
