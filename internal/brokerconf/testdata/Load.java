import java.io.*;
import java.util.*;

/** Reads base64 of a properties file from each line, writes what Properties.load makes of it. */
public class Load {
    public static void main(String[] args) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        PrintStream out = new PrintStream(new BufferedOutputStream(System.out));
        for (String line; (line = in.readLine()) != null; ) {
            Properties p = new Properties();
            StringBuilder s = new StringBuilder();
            try {
                p.load(new ByteArrayInputStream(Base64.getDecoder().decode(line)));
                for (String k : new TreeSet<>(p.stringPropertyNames())) {
                    hex(s, k);
                    s.append('=');
                    hex(s, p.getProperty(k));
                    s.append(';');
                }
            } catch (IllegalArgumentException e) {
                s.append("refused");
            }
            out.println(s);
        }
        out.flush();
    }

    private static void hex(StringBuilder s, String text) {
        for (char c : text.toCharArray()) {
            s.append(String.format("%04x", (int) c));
        }
    }
}
