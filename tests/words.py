"""A small model file of YouTokenToMe."""

# Learnt by version 1.0.6 of the package from "a red cat", "a red cab", "an abacus", "bananas",
# "红色的猫" and "红色的狗", each three times.
MODEL = (
    "16 14;115 12;30340 11;99 7;117 18;32418 10;101 14;114 13;29483 16;98 8;29399 17;33394 9;"
    "116 19;9601 4;100 15;97 5;110 6;4 5 20;5 6 21;7 5 22;4 22 23;10 9 24;24 11 25;4 25 26;"
    "14 15 27;13 27 28;4 28 29;8 5 30;30 7 31;31 18 32;32 12 33;1 0 2 3;"
).replace(";", "\n")
