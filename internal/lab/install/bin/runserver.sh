#!/bin/sh
. "$(dirname "$0")/java.sh"
JAVA_OPT="$JAVA_OPT -Xms64m -Xmx128m"
"$JAVA" $JAVA_OPT $JAVA_OPT_EXT -cp "$CLASSPATH" "$@"
