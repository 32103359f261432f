// Package dist holds the Maven project that names the jars of a RocketMQ release.
package dist

import _ "embed"

// POM is the project: `mvn dependency:copy-dependencies -Drocketmq.version=<release>` on it copies a
// release's jars (broker, name server, tools and what they need) into a folder.
//
//go:embed pom.xml
var POM []byte
