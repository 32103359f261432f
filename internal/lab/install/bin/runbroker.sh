#!/bin/sh
. "$(dirname "$0")/java.sh"
JAVA_OPT="$JAVA_OPT -Xms256m -Xmx256m -XX:MaxDirectMemorySize=512m"
# A laptop's disk may be fuller than the 85 to 90 % at which a broker deletes files and refuses writes.
JAVA_OPT="$JAVA_OPT -Drocketmq.broker.diskSpaceWarningLevelRatio=0.98"
JAVA_OPT="$JAVA_OPT -Drocketmq.broker.diskSpaceCleanForciblyRatio=0.98"
"$JAVA" $JAVA_OPT $JAVA_OPT_EXT -cp "$CLASSPATH" "$@"
