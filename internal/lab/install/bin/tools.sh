#!/bin/sh
. "$(dirname "$0")/java.sh"
exec "$JAVA" $JAVA_OPT -Xmx128m $JAVA_OPT_EXT -cp "$CLASSPATH" "$@"
