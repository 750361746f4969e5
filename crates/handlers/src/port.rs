//! A handler's port: a number, or the name of one of the container's ports.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pod::api::Container;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("invalid port number: {0}")]
    Invalid(i32),
    #[error("port {0:?} not found")]
    NotFound(String),
}

pub fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, PortError> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => named(name, container)?,
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or(PortError::Invalid(number))
}

fn named(name: &str, container: &Container) -> Result<i32, PortError> {
    let ports = container.ports.as_deref().unwrap_or_default();
    let port = ports.iter().find(|p| p.name.as_deref() == Some(name));
    port.map(|p| p.container_port).ok_or_else(|| PortError::NotFound(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod::api::ContainerPort;

    fn container() -> Container {
        let port = ContainerPort { name: Some("http".into()), container_port: 8080, ..Default::default() };
        Container { ports: Some(vec![port]), ..Default::default() }
    }

    #[test]
    fn a_name_is_looked_up_in_the_container() {
        assert_eq!(resolve_port(&IntOrString::String("http".into()), &container()), Ok(8080));
        let missing = resolve_port(&IntOrString::String("web".into()), &container()).unwrap_err();
        assert_eq!(missing.to_string(), "port \"web\" not found");
    }

    #[test]
    fn a_number_must_be_a_port() {
        assert_eq!(resolve_port(&IntOrString::Int(443), &container()), Ok(443));
        assert_eq!(resolve_port(&IntOrString::Int(70_000), &container()), Err(PortError::Invalid(70_000)));
        assert_eq!(resolve_port(&IntOrString::Int(0), &container()), Err(PortError::Invalid(0)));
    }
}
