// SPDX-License-Identifier: MPL-2.0

//! Sets properties of the element from the command line.

use std::{fmt::Write, ops::RangeInclusive};

use gst::{
    glib::{self, EnumClass, ParamFlags, ParamSpec},
    prelude::*,
};

use crate::Result;

/// Sets what each text of the form `property=value` says.
pub fn set(element: &gst::Element, texts: &[String]) -> Result<()> {
    for text in texts {
        set_one(element, text).map_err(|reason| format!("{reason}\n\n{}", list(element)))?;
    }
    Ok(())
}

fn set_one(element: &gst::Element, text: &str) -> Result<(), String> {
    let (name, text) = text.split_once('=').ok_or_else(|| format!("\"{text}\" is not of the form property=value"))?;
    let property = settable(element)
        .find(|property| property.name() == name)
        .ok_or_else(|| format!("there is no property \"{name}\""))?;
    let value = glib::Value::deserialize(text, property.value_type())
        .ok()
        // GStreamer would put it into the range without a word.
        .filter(|value| is_in_range(&property, value))
        .ok_or_else(|| format!("{name} cannot be \"{text}\", it is {}", values(&property)))?;
    element.set_property_from_value(name, &value);
    Ok(())
}

/// The element's own properties, without those that every element has.
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
        // As it would be given here; serialized it would have quotes.
        let default = match default.get::<Option<String>>() {
            Ok(text) => text.unwrap_or_default(),
            Err(_) => default.serialize().unwrap_or_default().into(),
        };
        // Writing into a String cannot fail.
        let _ = write!(list, "\n  {:17} {} [{default}]", property.name(), values(&property));
    }
    list
}

/// Says which values a property takes.
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

fn whole_numbers(property: &ParamSpec) -> Option<RangeInclusive<i64>> {
    if let Some(property) = property.downcast_ref::<glib::ParamSpecUInt>() {
        Some(property.minimum().into()..=property.maximum().into())
    } else if let Some(property) = property.downcast_ref::<glib::ParamSpecInt>() {
        Some(property.minimum().into()..=property.maximum().into())
    } else {
        let property = property.downcast_ref::<glib::ParamSpecInt64>()?;
        Some(property.minimum()..=property.maximum())
    }
}

fn numbers(property: &ParamSpec) -> Option<RangeInclusive<f64>> {
    let property = property.downcast_ref::<glib::ParamSpecDouble>()?;
    Some(property.minimum()..=property.maximum())
}

fn is_in_range(property: &ParamSpec, value: &glib::Value) -> bool {
    let is_whole = |range: RangeInclusive<i64>| {
        value.transform::<i64>().is_ok_and(|it| it.get().is_ok_and(|it: i64| range.contains(&it)))
    };
    let is_number = |range: RangeInclusive<f64>| value.get().is_ok_and(|it: f64| range.contains(&it));
    whole_numbers(property).is_none_or(is_whole) && numbers(property).is_none_or(is_number)
}
